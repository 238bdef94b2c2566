"""A folder a class: root/<split>/<class>/*.jpg, or root/<class>/*.jpg."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

from fna.data import files
from fna.data.bank import LabelledDataset, cut, part_note
from fna.data.base import NO_SPLIT, Labelled, taught
from fna.data.called import SPLITS, parts, splits
from fna.data.layouts import BY_CLASS, TINY_LABELS, V2, looks_like, packed_below, split_folder
from fna.data.pictures import files_below, files_in, is_hidden, is_picture, packed_note, stray_note, system_note, unread_note
from fna.data.places import by_name, composed
from fna.errors import UserError
from fna.values import Count, Domain, Says, counted

AUTO = "auto"
VALIDATION = ("val", "valid", "validation")  # as the tools that export data sets call it
ClassList = Annotated[
    str | None, Says("a TSV file: in each line a class's folder, a tab, its name (n01443537<TAB>goldfish); or null")
]


@dataclass(frozen=True)
class ImageFolder:
    """Labelled images in ``root/<split>/<class>/``, or with ``split`` null in ``root/<class>/``; sorted by path.

    A split that is named must be there. "auto" names none: it is ``val`` where there is one, else the root itself if each of its
    folders can only be a class (it holds pictures, and is called neither as splits nor as parts of other layouts are).
    ``classes``: a TSV of class id (the folder's name) and class name that says the order of labels and must know every folder.
    Without it labels follow the sorted folder names, which are then the names too.

    What nearest neighbours and a probe learn from is the split ``train``, of the same classes, or the first ``bank`` images of each
    class, which are then not asked about.
    """

    root: str
    split: str | None = AUTO
    classes: ClassList = None
    domain: Domain = "photographs"
    name: str = "imagefolder"
    train: str | None = None
    bank: Count | None = None
    gives: ClassVar[type] = Labelled

    def check(self) -> None:
        """Raise `UserError` for a root, split or list of classes that is not there, and for folders that are no classes."""
        self.class_names()
        if self.classes is not None:
            files.check_file(Path(self.classes), "dataset.classes")
        if self.train is not None:
            self._check_train(self.train)

    def load(self, limit: int | None) -> LabelledDataset:
        """The first ``limit`` images. Raises `UserError` for a class without images or one that the list lacks."""
        self.check()
        if self.bank is not None:
            return cut(self.read(None), self.bank, limit)
        data = self.read(limit)
        if (train := self.train) is not None:
            data.training = lambda: taught(self._teacher().read(None), data, train)
        return data

    def read(self, limit: int | None) -> LabelledDataset:
        """The first ``limit`` images of the split itself."""
        folder, found = self._folder(), self.class_folders()
        ids, names, listed = files.classes_of(self.classes, found) if self.classes else (found, found, [])
        called = by_name(found, ids)
        unknown = sorted(set(found) - called.keys())
        if unknown:
            form = f"; its first line gives the id {ids[0][:60]!r}: give a TSV of folder and name" * (not called)
            raise UserError(f"{self.classes}: lacks {len(unknown)} of the class folders in {folder} (first: {unknown[0]}){form}.")
        if len(ids) < 2:
            raise UserError(f"{self.classes}: names one class, and one alone has nothing to be told from; name all classes.")
        places = {name: index for index, name in enumerate(ids)}
        label = {name: places[known] for name, known in called.items()}
        below = {name: files_below(folder / name) for name in found}
        paths = [path for inner in below.values() for path in inner if is_picture(path)]
        files_there = [path for inner in below.values() for path in inner]
        notes = [*listed, *unread_note(files_there), *packed_note([*files_in(folder), *files_there]), *system_note(folder)]
        seen = {called[name] for name, inner in below.items() if any(map(is_picture, inner))}
        unseen = [name for name in ids if name not in seen]
        if unseen and paths:
            notes.append(f"{len(unseen)} of {len(ids)} classes have no images here (first: {unseen[0]})")
        notes += stray_note(folder)
        notes += _folders_inside([path.relative_to(folder) for path in paths])
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
        keys = [path.relative_to(folder) for path in paths]
        whole = [Labelled(key.as_posix(), folder / key, label[key.parts[0]]) for key in keys]
        examples = files.first(whole, limit)
        notes += part_note(examples, whole)
        if self.split == AUTO and folder == Path(self.root):
            notes.insert(0, f"no split was named: the {len(found)} folders of {folder} are read as the classes")
        if self.classes is None and {*found} == V2:
            notes.append(
                "folders 0 to 999 are ImageNet-V2's: dataset=imagenet_v2 reads them in ImageNet's order, here 10 comes before 2"
            )
        split = self._split_name(folder)
        digest = files.digest(split, examples)
        return LabelledDataset(self.name, split, self.domain, digest, examples, names, ids, notes)

    def class_names(self) -> list[str]:
        """What the classes are called on disk, in order."""
        return self.class_folders()

    def class_folders(self) -> list[str]:
        """Names of the class folders, sorted. Raises `UserError` where they are none: splits, another layout, less than two."""
        folder = self._folder()
        found = _folders(folder)
        if self.classes is not None:
            return found
        if len(found) < 2:
            hint = self._below(folder, found) or self._hint(folder)
            raise UserError(f"{folder}: holds {_count(found)}, and one class alone has nothing to be told from{hint}.")
        self._check_order(folder, found)
        as_splits, as_parts = splits(found), parts(found)
        if len(as_splits) > 1 or len(as_splits) + len(as_parts) == len(found) or _only_folders(folder, found):
            kind = "splits" if len(as_splits) > 1 else "parts of other data" if as_parts == found else "splits or groups"
            like = as_splits if len(as_splits) > 1 else found
            raise UserError(
                f"{folder}: {', '.join(like[:4])} look like {kind}, not classes; give dataset.root={folder} "
                f"dataset.split={like[-1]}, or the classes with dataset.classes=FILE."
            )
        return found

    def others(self) -> list[str]:
        """The folders of the root beside that of the split that is asked about; none where the root's are the classes."""
        root = Path(self.root)
        if not root.is_dir():
            return []
        asked = self._folder()
        return [] if asked.samefile(root) else [name for name in _folders(root) if not asked.is_relative_to(root / name)]

    def _teacher(self) -> Self:
        """The split to learn from."""
        return replace(self, split=self.train, train=None)

    def _check_train(self, train: str) -> None:
        """Raise `UserError` for a split to learn from that is not there, is the one asked about, or has other classes."""
        if self.bank is not None:
            raise UserError(f"dataset.train={train} and dataset.bank={self.bank}: both say what to learn from; give one of them.")
        folder = split_folder(Path(self.root), train, "dataset.train")
        if folder.samefile(self._folder()):
            raise UserError(
                f"dataset.train={train}: these are the images that are asked about; give another split, or dataset.bank=4 instead, "
                "which takes the first 4 images of each class to learn from."
            )
        asked = self.class_names()
        try:
            learnt = self._teacher().class_names()
        except UserError as error:
            raise UserError(f"dataset.train={train}: {str(error).replace('dataset.split=', 'dataset.train=')}") from error
        if self.classes is None and [*map(composed, asked)] != [*map(composed, learnt)]:
            odd = sorted({*map(composed, asked)} ^ {*map(composed, learnt)} or {*asked} ^ {*learnt})[0]
            raise UserError(
                f"dataset.train={train}: its {len(learnt)} classes are not the {len(asked)} of {self._folder()} ({odd} is in one "
                "only): give a split of the same classes, or list them all with dataset.classes=FILE."
            )

    def _folder(self) -> Path:
        """Where the class folders lie. Raises `UserError` where the split is not there."""
        root = Path(self.root)
        if root.is_dir() and self.split is not None and not (root / ("val" if self.split == AUTO else self.split)).is_dir():
            self._check_order(root, _names(root))
        if self.split != AUTO:
            return split_folder(root, self.split)
        there = next((name for name in VALIDATION if (root / name).is_dir()), None)
        if there is not None or not root.is_dir():
            return split_folder(root, there or "val")
        found = _folders(root)
        known = splits(found) or parts(found) or looks_like(root) not in BY_CLASS
        pictured = (any(map(is_picture, (root / name).iterdir())) for name in found)
        if found and not known and all(pictured):
            return root
        try:
            return split_folder(root, "val")
        except UserError as error:
            raise UserError(str(error).replace("dataset.split=val:", "dataset.split is not typed, and means val:", 1)) from error

    def _check_order(self, folder: Path, found: list[str]) -> None:
        """Raise `UserError` where the splits lie in the classes (cat/train/*.jpg): read is the other way round."""
        if len(found) < 2 or splits(found) or parts(found):
            return
        inside = (_names(folder / name) for name in found)
        if all(inner and splits(inner) == inner for inner in inside):
            inner = _names(folder / found[0])
            split = self.split if self.split in inner else inner[-1]
            first = folder / found[0] / split
            if any(map(is_picture, first.iterdir())):
                raise UserError(
                    f"{folder}: the classes come first and the splits in them ({found[0]}/{split}); put the split first: move "
                    f"or link each of them, as {first} to {folder / split / found[0]}, and give dataset.split={split}."
                )

    def _split_name(self, folder: Path) -> str:
        """The split as named, or what a folder of class folders is called that is a split itself."""
        if self.split not in (AUTO, None):
            return str(self.split)
        own = folder.name if folder != Path(self.root) else folder.absolute().name
        return own if own.lower() in SPLITS else NO_SPLIT

    def _below(self, folder: Path, found: list[str]) -> str:
        """What to give where the classes lie in the one folder that ``folder`` holds, as archives unpack (val/val/CLASS)."""
        below = folder / found[0] if len(found) == 1 else folder
        inner = _folders(below)
        if len(inner) < 2 or splits(inner) or not any(is_picture(path) for name in inner for path in (below / name).iterdir()):
            return ""
        split = below.relative_to(self.root).as_posix()
        return f"; {', '.join(inner[:3])} one level below look like its classes: give dataset.split={split}"

    def _hint(self, folder: Path) -> str:
        if any((place / TINY_LABELS).is_file() for place in (folder, folder.parent)):
            return f"; it looks like Tiny-ImageNet's own val folder: read it with dataset=tiny_imagenet dataset.root={self.root}"
        if packed := packed_below(folder):
            return packed
        other = looks_like(folder) or looks_like(Path(self.root))
        return f"; it looks like {other}" if other else "; a folder a class is needed: give it with dataset.root=PATH"


def _folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, links to folders among them, in an order that does not depend on how their accents are
    written. Raises `UserError` for a link to what is not there."""
    gone = sorted(path for path in folder.iterdir() if path.is_symlink() and not path.exists() and not is_hidden(path.name))
    if gone:
        raise UserError(
            f"{gone[0]}: a link to {gone[0].readlink()}, which is not there; bring back what it links to, or remove it."
        )
    return _names(folder)


def _names(folder: Path) -> list[str]:
    names = (path.name for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())
    return sorted(names, key=lambda name: (composed(name), name))


def _only_folders(folder: Path, found: list[str]) -> bool:
    """Whether no folder holds a picture itself and there are two or more names among the folders inside: these are the classes.

    One name alone is no sign: Tiny-ImageNet's train split has an ``images`` in each class.
    """
    inside = set()
    for name in found:
        entries = [path for path in (folder / name).iterdir() if not is_hidden(path.name)]
        if any(map(is_picture, entries)):
            return False
        inside |= {path.name for path in entries if path.is_dir()}
    return len(inside) > 1


def _folders_inside(keys: list[Path]) -> list[str]:
    """A note that pictures lie in folders inside those of classes, which may be the classes that are meant: church/indoor.

    None where all lie in folders of one name: Tiny-ImageNet's train split has an ``images`` in each class.
    """
    deep = [key for key in keys if len(key.parts) > 2]
    if not deep or (len(deep) == len(keys) and len({key.parts[1] for key in deep}) == 1):
        return []
    first = deep[0]
    return [
        f"{len(deep)} of {counted(len(keys), 'picture')} lie in folders inside class folders (first: {first.parent.as_posix()}) "
        f"and count as of the class above, {first.parts[0]}; if they are classes of their own, move their folders beside the others"
    ]


def _count(found: list[str]) -> str:
    return f"one folder ({found[0]})" if found else "no folder"


def _said(notes: list[str]) -> str:
    return "".join(f" {note}." for note in notes)
