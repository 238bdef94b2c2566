"""Captions in a table: paths of images, and "captions" (Python lists, as the authors of FNA keep them) or one caption as it stands.

Columns go by the names that tools give them: filepath and title (open_clip), image and caption (Kaggle), file_name and text
(Hugging Face's folders of images).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fna.data import captions, files
from fna.data.absent import Missing
from fna.data.base import Captioned, Dataset, is_text
from fna.data.elsewhere import elsewhere, located
from fna.data.entries import Entry, divider, literal
from fna.errors import UserError
from fna.mistaken import refuse_mistaken
from fna.values import Count, Domain

LISTED, PLAIN = "captions", ("title", "caption", "text")
PATHS = ("filepath", "image", "file_name")
READ = (
    "a.jpg<tab>['a cat', 'a black cat'] below filepath<tab>captions; or a.jpg<tab>a cat below filepath<tab>title, a caption a line"
)


@dataclass(frozen=True)
class TsvCaptions:
    """``annotations`` lies in ``root``; file paths in it are absolute or relative to the folder ``images`` in ``root``.

    An image has the captions of all its lines: such files often hold one caption a line. A list of captions is parsed as a
    literal, never evaluated. ``split`` is what the user says the file holds. ``missing``: "skip" leaves out, and notes, images that
    are not there.
    """

    root: str
    annotations: str
    images: str = "."
    split: str = "unknown"
    captions_per_image: Count | Literal["all"] = "all"
    missing: Missing = "refuse"
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
        found, lines = _read(source)
        root = Path(self.root)
        examples = [Captioned(key, located(lines[key], key, folder, root), texts) for key, texts in found.items()]
        data = captions.dataset(self.name, self.split, self.domain, source, examples, limit, self.captions_per_image, self.missing)
        data.notes += elsewhere(((lines[one.key].where, one.key, one.image) for one in examples), folder, root)
        return data


def _read(source: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, Entry]]:
    """File path -> its captions, and -> the first line that names it."""
    found: dict[str, tuple[str, ...]] = {}
    lines: dict[str, Entry] = {}
    refuse_mistaken(source)
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=divider(file, "\t"))
            path, told = _columns(source, reader.fieldnames or ())
            for row in reader:
                where, key = f"{source}, line {reader.line_num}", row[path]
                if row.get(reader.restkey):
                    quoted = "put a caption that holds what divides them in quotes"
                    mend = "give all captions in one list" if told == LISTED else quoted
                    raise UserError(f"{where}: has more cells than columns; {mend}.")
                if not key or not key.strip():
                    raise UserError(f"{where}: no {path}; give the image of each line.")
                lines.setdefault(key, Entry(row, where))
                found[key] = found.get(key, ()) + (_captions if told == LISTED else _caption)(row[told], where)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{source}: not a TSV ({error}); save it as text in UTF-8.") from error
    return found, lines


def _columns(source: Path, heads: Sequence[str]) -> tuple[str, str]:
    """The columns of paths and of captions. Raises `UserError` where one is not there or could be two, or a name stands twice."""
    if "".join(heads).lstrip().startswith(("{", "[")):
        raise UserError(f"{source}: JSON, no table; dataset=coco_captions reads JSON in COCO's form.")
    if len(heads) > len(set(heads)):
        raise UserError(f"{source}: has a column twice, {[*heads]}; name each once.")
    paths, texts = ([name for name in names if name in heads] for names in (PATHS, (LISTED, *PLAIN)))
    if not paths or not texts:
        raise UserError(
            f"{source}: has columns {[*heads]}; filepath and captions are needed: name them in its first line ({READ})."
        )
    for names in (paths, texts):
        if len(names) > 1:
            raise UserError(f"{source}: has columns {' and '.join(names)}; keep the one that is meant.")
    return paths[0], texts[0]


def _captions(cell: str | None, where: str) -> tuple[str, ...]:
    """Those of a Python list."""
    try:
        value = literal(cell or "", where)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list | tuple) or not all(is_text(caption) for caption in value):
        raise UserError(
            f"{where}: captions are no Python list of strings ({(cell or '')[:60]!r}); write ['a cat', 'a black cat'], or name the "
            f"column {PLAIN[0]} where each cell is one caption as it stands."
        )
    return tuple(caption.strip() for caption in value)


def _caption(cell: str | None, where: str) -> tuple[str, ...]:
    """The one caption that a cell is. Raises `UserError` for a list, whose brackets and quotes would be read as words."""
    text = (cell or "").strip()
    if text.startswith(("['", '["')) and text.endswith(("']", '"]')):
        raise UserError(
            f"{where}: a list ({text[:60]}) in a column of one caption, which would be read as it stands; name the column {LISTED}."
        )
    if "\n" in text:
        raise UserError(
            f"{where}: a caption of several lines ({text[:60]!a}): a quotation mark that opens it and is not closed takes in what "
            "is behind it; leave it out, or write the caption on one line."
        )
    return (text,)
