"""One's own pictures without labels, flat in a folder or in folders below it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fna.data import files
from fna.data.base import NO_SPLIT, Dataset, Pictured
from fna.data.pictures import files_below, is_picture, packed_note, system_note, unread_note
from fna.errors import UserError
from fna.values import Domain


@dataclass(frozen=True)
class Images:
    """All pictures below ``root``, sorted by path."""

    root: str
    domain: Domain = "photographs"
    name: str = "images"
    split: ClassVar[str] = NO_SPLIT
    gives: ClassVar[type] = Pictured

    def check(self) -> None:
        """Raise `UserError` where the folder is not there."""
        files.check_folder(Path(self.root))

    def load(self, limit: int | None) -> Dataset[Pictured]:
        """The first ``limit`` pictures. Raises `UserError` where there is none."""
        self.check()
        root = Path(self.root)
        below = files_below(root)
        paths, notes = [path for path in below if is_picture(path)], [*unread_note(below), *packed_note(below), *system_note(root)]
        if not paths:
            told = "".join(f" {note}." for note in notes)
            raise UserError(f"{root}: holds no picture, nor do folders below it; give the place with dataset.root=PATH.{told}")
        examples = [Pictured(path.relative_to(root).as_posix(), path) for path in files.first(paths, limit)]
        if len(examples) < len(paths):
            notes.append(f"the first {len(examples):,} of {len(paths):,} pictures")
        return Dataset(self.name, NO_SPLIT, self.domain, files.digest(NO_SPLIT, examples), examples, notes=notes)
