"""Captions as the authors of FNA keep them: a TSV with columns "filepath" and "captions", the latter a Python list."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fna.data import captions, files
from fna.data.base import Captioned, Dataset, is_text
from fna.data.elsewhere import elsewhere, located
from fna.data.entries import Entry, divider, literal
from fna.errors import UserError
from fna.mistaken import refuse_mistaken
from fna.values import Count, Domain


@dataclass(frozen=True)
class TsvCaptions:
    """``annotations`` lies in ``root``; file paths in it are absolute or relative to the folder ``images`` in ``root``.

    An image has the captions of all its lines: such files often hold one caption a line.
    The list of captions is parsed as a literal, never evaluated. ``split`` is what the user says the file holds.
    """

    root: str
    annotations: str
    images: str = "."
    split: str = "unknown"
    captions_per_image: Count | Literal["all"] = "all"
    domain: Domain = "photographs"
    name: str = "captions_tsv"
    gives: ClassVar[type] = Captioned

    def __post_init__(self) -> None:
        captions.check_count(self.captions_per_image)

    def check(self) -> None:
        """Raise `UserError` where root or annotations are not there."""
        files.check_folder(Path(self.root))
        captions.check_annotations(Path(self.root), self.annotations)

    def load(self, limit: int | None) -> Dataset[Captioned]:
        """The first ``limit`` images. Raises `UserError` with the line that is not in the format."""
        self.check()
        source, folder = Path(self.root) / self.annotations, Path(self.root) / self.images
        found: dict[str, tuple[str, ...]] = {}
        lines: dict[str, Entry] = {}
        refuse_mistaken(source)
        try:
            with open(source, encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, delimiter=divider(file, "\t"))
                if not {"filepath", "captions"} <= set(reader.fieldnames or ()):
                    raise UserError(
                        f"{source}: has columns {reader.fieldnames}; filepath and captions are needed: name them in its first line."
                    )
                if len(reader.fieldnames or ()) > len(set(reader.fieldnames or ())):
                    raise UserError(f"{source}: has a column twice, {reader.fieldnames}; name each once.")
                for row in reader:
                    key = row["filepath"]
                    if row.get(reader.restkey):
                        raise UserError(
                            f"{source}, line {reader.line_num}: has more cells than columns; give all captions in one list."
                        )
                    if not key or not key.strip():
                        raise UserError(f"{source}, line {reader.line_num}: no filepath; give the image of each line.")
                    lines.setdefault(key, Entry(row, f"{source}, line {reader.line_num}"))
                    found[key] = found.get(key, ()) + _captions(row["captions"], source, reader.line_num)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{source}: not a TSV ({error}); save it as text in UTF-8.") from error
        root = Path(self.root)
        examples = [Captioned(key, located(lines[key], key, folder, root), texts) for key, texts in found.items()]
        data = captions.dataset(self.name, self.split, self.domain, source, examples, limit, self.captions_per_image)
        data.notes += elsewhere(((lines[one.key].where, one.key, one.image) for one in examples), folder, root)
        return data


def _captions(cell: str | None, source: Path, line: int) -> tuple[str, ...]:
    try:
        value = literal(cell or "", f"{source}, line {line}")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list | tuple) or not all(is_text(caption) for caption in value):
        raise UserError(f"{source}, line {line}: captions are no Python list of strings ({(cell or '')[:60]!r}).")
    return tuple(caption.strip() for caption in value)
