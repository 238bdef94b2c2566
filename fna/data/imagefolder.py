"""A folder a class: root/<split>/<class>/*.jpg, or root/<class>/*.jpg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fna.data import files
from fna.data.base import Dataset, Labelled
from fna.data.layouts import BY_CLASS, TINY_LABELS, looks_like, split_folder
from fna.data.pictures import files_below, is_hidden, is_picture, unread_note
from fna.errors import UserError
from fna.values import Domain

AUTO, NO_SPLIT = "auto", "none"
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})
PARTS = frozenset({"images", "image", "img", "imgs", "labels", "masks", "annotations", "ann"})  # of data with another layout


@dataclass(frozen=True)
class ImageFolder:
    """Labelled images in ``root/<split>/<class>/``, or with ``split`` null in ``root/<class>/``; sorted by path.

    A split that is named must be there. "auto" names none: it is ``val`` where there is one, else the root itself if each of its
    folders can only be a class (it holds pictures, and is called neither as splits nor as parts of other layouts are).
    ``classes``: a TSV of class id (the folder's name) and class name that says the order of labels and must know every folder.
    Without it labels follow the sorted folder names, which are then the names too.
    """

    root: str
    split: str | None = AUTO
    classes: str | None = None
    domain: Domain = "photographs"
    name: str = "imagefolder"

    def check(self) -> None:
        """Raise `UserError` for a root, split or list of classes that is not there, and for folders that are no classes."""
        self.class_folders()
        if self.classes is not None:
            files.check_file(Path(self.classes), "dataset.classes")

    def load(self, limit: int | None) -> Dataset[Labelled]:
        """The first ``limit`` images. Raises `UserError` for a class without images or one that the list lacks."""
        self.check()
        folder, found = self._folder(), self.class_folders()
        ids, names = files.read_classes(self.classes) if self.classes else (found, found)
        unknown = sorted(set(found) - set(ids))
        if unknown:
            raise UserError(f"{self.classes}: lacks {len(unknown)} of the class folders in {folder} (first: {unknown[0]}).")
        if len(ids) < 2:
            raise UserError(f"{self.classes}: names one class, and one alone has nothing to be told from; name all classes.")
        label = {name: index for index, name in enumerate(ids)}
        below = {name: files_below(folder / name) for name in found}
        paths = [path for inner in below.values() for path in inner if is_picture(path)]
        notes = unread_note(path for inner in below.values() for path in inner)
        empty = [name for name, inner in below.items() if not any(map(is_picture, inner))]
        if not paths:
            raise UserError(
                f"{folder}: holds no <class>/*.jpg; give a folder of class folders with dataset.root=PATH.{_said(notes)}"
            )
        if empty and self.classes is None:
            raise UserError(
                f"{folder / empty[0]}: a class without an image; remove the folder, or give the classes with "
                f"dataset.classes=FILE.{_said(notes)}"
            )
        keys = [path.relative_to(folder) for path in files.first(paths, limit)]
        examples = [Labelled(key.as_posix(), folder / key, label[key.parts[0]]) for key in keys]
        if self.split == AUTO and folder == Path(self.root):
            notes.insert(0, f"no split was named: the {len(found)} folders of {folder} are read as the classes")
        split = self._split_name(folder)
        return Dataset(self.name, split, self.domain, files.digest(split, examples), examples, names, ids, notes)

    def class_folders(self) -> list[str]:
        """Names of the class folders, sorted. Raises `UserError` where they are none: splits, another layout, less than two."""
        folder = self._folder()
        found = _folders(folder)
        if self.classes is not None:
            return found
        if len(found) < 2:
            raise UserError(
                f"{folder}: holds {_count(found)}, and one class alone has nothing to be told from{self._hint(folder)}."
            )
        if {name.lower().rstrip("0123456789") for name in found} <= SPLITS or _same_inside(folder, found):
            raise UserError(
                f"{folder}: {', '.join(found[:4])} look like splits, not classes; give dataset.root={folder} "
                f"dataset.split={found[-1]}, or the classes with dataset.classes=FILE."
            )
        return found

    def _folder(self) -> Path:
        """Where the class folders lie. Raises `UserError` where the split is not there."""
        root = Path(self.root)
        if self.split != AUTO:
            return split_folder(root, self.split)
        if not root.is_dir() or (root / "val").is_dir():
            return split_folder(root, "val")
        found = _folders(root)
        known = {name.lower().rstrip("0123456789") for name in found} & (SPLITS | PARTS) or looks_like(root) not in BY_CLASS
        pictured = (any(map(is_picture, (root / name).iterdir())) for name in found)
        return root if found and not known and all(pictured) else split_folder(root, "val")

    def _split_name(self, folder: Path) -> str:
        """The split as named, or what a folder of class folders is called that is a split itself."""
        if self.split not in (AUTO, None):
            return str(self.split)
        own = "val" if folder != Path(self.root) else folder.absolute().name
        return own if own.lower() in SPLITS else NO_SPLIT

    def _hint(self, folder: Path) -> str:
        if any((place / TINY_LABELS).is_file() for place in (folder, folder.parent)):
            return f"; it looks like Tiny-ImageNet's own val folder: read it with dataset=tiny_imagenet dataset.root={self.root}"
        other = looks_like(folder) or looks_like(Path(self.root))
        return f"; it looks like {other}" if other else "; a folder a class is needed: give it with dataset.root=PATH"


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())


def _same_inside(folder: Path, found: list[str]) -> bool:
    """Whether every folder holds the same two or more folders and no picture: splits by whatever name."""
    inside = []
    for name in found:
        entries = [path for path in (folder / name).iterdir() if not is_hidden(path.name)]
        if any(map(is_picture, entries)):
            return False
        inside.append({path.name for path in entries if path.is_dir()})
    return len(inside[0]) > 1 and all(names == inside[0] for names in inside)


def _count(found: list[str]) -> str:
    return f"one folder ({found[0]})" if found else "no folder"


def _said(notes: list[str]) -> str:
    return "".join(f" {note}." for note in notes)
