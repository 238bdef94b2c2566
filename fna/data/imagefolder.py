"""A folder a class: root/<class>/*.jpg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fna.data import files
from fna.data.base import Dataset, Labelled
from fna.errors import UserError
from fna.values import Domain

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True)
class ImageFolder:
    """Labelled images in ``root/<split>/<class>/`` or, where that folder is not there, ``root/<class>/``; sorted by path.

    ``classes``: a TSV of class id (the folder's name) and class name that says the order of labels and must know every folder.
    Without it labels follow the sorted folder names, which are then the names too.
    """

    root: str
    split: str = "val"
    classes: str | None = None
    domain: Domain = "photographs"
    name: str = "imagefolder"

    def check(self) -> None:
        """Raise `UserError` for a missing root or list of classes."""
        files.check_folder(Path(self.root))
        if self.classes is not None:
            files.check_file(Path(self.classes), "dataset.classes")

    def load(self, limit: int | None) -> Dataset[Labelled]:
        """The first ``limit`` images. Raises `UserError` for a folder without images or with a class that the list lacks."""
        self.check()
        folder = Path(self.root) / self.split
        folder = folder if folder.is_dir() else Path(self.root)
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        ids, names = files.read_classes(self.classes) if self.classes else (found, found)
        unknown = sorted(set(found) - set(ids))
        if unknown:
            raise UserError(f"{self.classes}: lacks {len(unknown)} of the class folders in {folder} (first: {unknown[0]}).")
        label = {name: index for index, name in enumerate(ids)}
        paths = [path for name in found for path in sorted((folder / name).rglob("*")) if path.suffix.lower() in SUFFIXES]
        if not paths:
            raise UserError(f"{folder}: holds no <class>/*.jpg; give a folder of class folders with dataset.root=PATH.")
        keys = [path.relative_to(folder) for path in files.first(paths, limit)]
        examples = [Labelled(key.as_posix(), folder / key, label[key.parts[0]]) for key in keys]
        return Dataset(self.name, self.split, self.domain, files.digest(self.split, examples), examples, names, ids)
