"""Label maps: images beside PNGs of class values, read by each data set's own convention.

What differs between ADE20K, COCO-Stuff, Cityscapes, PASCAL VOC and CamVid is where the files lie and what the values mean, so each
is a YAML file for one reader. Values become classes by one rule: the classes take the values 0, 1, 2, ... in order, skipping those
that are ``ignored`` (they become 255 and count nowhere) and those that are ``absent`` (they must not occur). ADE20K ignores 0, so
that 1 is its first class; COCO-Stuff has eleven absent values. A value that is neither is an error that names the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image

from fna.data.base import Dataset, Segmented
from fna.data.files import UNREADABLE
from fna.data.layouts import looks_like
from fna.errors import UserError
from fna.values import Domain, between

Array = np.ndarray
IGNORE = 255
UNKNOWN = -1
VALUES = 65536  # 16-bit label maps
Label = Annotated[int, between(0, VALUES - 1)]
CLASS_FILES = Path(__file__).parent / "classes"


@dataclass
class SegmentedDataset(Dataset[Segmented]):
    """Segmented examples with what reads their label maps: int64 ``[H, W]``, classes and 255 (ignored).

    ``training`` gives the examples that a head may be trained on, None where there are none.
    """

    read_labels: Callable[[Segmented], Array] = field(kw_only=True)
    training: Callable[[], SegmentedDataset] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class LabelMaps:
    """A folder of images and a folder of label maps with the same names.

    ``images`` and ``labels`` are paths below ``root`` in which ``{split}`` and ``{name}`` are filled in; a name may hold folders.
    ``listing`` is a text file of names, None to take every image that is there. ``classes``: names in order, or the name of a list
    that comes with fna. ``ignored`` and ``absent`` are label values as in the module's rule. ``train`` is the split for heads.
    """

    name: str
    root: str
    split: str
    images: str
    labels: str
    classes: Sequence[str] | str
    ignored: Sequence[Label] = (IGNORE,)
    absent: Sequence[Label] = ()
    train: str | None = None
    listing: str | None = None
    domain: Domain = "photographs"

    def check(self) -> None:
        """Raise `UserError` where the root is missing or holds something else."""
        check_folder(self.name, Path(self.root), [_stem(path).format(split=self.split) for path in (self.images, self.labels)])

    def load(self, limit: int | None) -> SegmentedDataset:
        """The examples of the split, in the order of their names (or of the listing)."""
        examples = self._examples(self.split)[:limit]
        train = self.train
        return SegmentedDataset(
            name=self.name,
            split=self.split,
            domain=self.domain,
            digest=digest(examples, class_names(self.classes)),
            examples=examples,
            classes=class_names(self.classes),
            read_labels=self.read_labels,
            training=None if train is None else lambda: LabelMaps(**{**vars(self), "split": train, "train": None}).load(None),
        )

    def read_labels(self, example: Segmented) -> Array:
        """int64 ``[H, W]`` of classes and 255; raises `UserError` naming the file for a value that no class has."""
        return to_classes(read_values(example.labels), self._lookup(), example.labels, self.name)

    def _lookup(self) -> Array:
        return lookup(len(class_names(self.classes)), self.ignored, self.absent)

    def _examples(self, split: str) -> list[Segmented]:
        root = Path(self.root)
        pattern = self.images.format(split=split, name="{name}")
        names = self._listed(split) if self.listing else names_below(root, pattern)
        examples = [
            Segmented(name, root / pattern.format(name=name), root / self.labels.format(split=split, name=name)) for name in names
        ]
        missing = [file for example in examples for file in (example.image, example.labels) if not file.is_file()]
        if missing:
            raise UserError(f"{self.name}: {len(missing)} files of split {split} are missing, the first is {missing[0]}.")
        if not examples:
            raise UserError(f"{self.name}: no images {root / pattern}.")
        return examples

    def _listed(self, split: str) -> list[str]:
        assert self.listing is not None
        file = Path(self.root) / self.listing.format(split=split)
        if not file.is_file():
            raise UserError(f"{self.name}: {file} is missing; it lists the images of split {split}.")
        return file.read_text(encoding="utf-8").split()


def class_names(classes: Sequence[str] | str) -> list[str]:
    """The names themselves, or those of a list that comes with fna (its last column)."""
    if not isinstance(classes, str):
        return list(classes)
    lines = (CLASS_FILES / f"{classes}.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[-1] for line in lines]


def lookup(classes: int, ignored: Sequence[int], absent: Sequence[int] = ()) -> Array:
    """int64 ``[65536]``: label value -> class, 255 (ignored) or -1 (must not occur)."""
    table = np.full(VALUES, UNKNOWN)
    skipped = {*ignored, *absent}
    values = [value for value in range(classes + len(skipped)) if value not in skipped][:classes]
    table[values] = np.arange(classes)
    table[list(ignored)] = IGNORE
    return table


def read_values(file: Path) -> Array:
    """The values of a label PNG ``[H, W]`` as stored: palette indices or grey levels, never colours."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L", "1", "I", "I;16"):
                raise UserError(f"{file}: a label map holds class values, this is a colour image ({image.mode}).")
            return np.asarray(image).astype(np.int64)
    except UNREADABLE as error:
        raise UserError(f"{file}: cannot be read as a label map ({error}).") from error


def to_classes(values: Array, table: Array, file: Path, name: str) -> Array:
    """Label values through a `lookup` table; raises `UserError` naming the file and the first value that is unknown."""
    inside = (values >= 0) & (values < VALUES)
    classes = np.where(inside, table[np.where(inside, values, 0)], UNKNOWN)
    if (classes == UNKNOWN).any():
        value = values[classes == UNKNOWN][0]
        raise UserError(f"{file}: label value {value}, which no class of {name} has; is this another data set's label map?")
    return classes


def names_below(root: Path, pattern: str) -> list[str]:
    """What ``{name}`` stands for in the files that exist, sorted; it may span folders."""
    folder, suffix = pattern.split("{name}")
    found = (file.relative_to(root / folder).as_posix() for file in (root / folder).rglob(f"*{suffix}"))
    return sorted(name.removesuffix(suffix) for name in found)


def check_folder(name: str, root: Path, needed: Sequence[str]) -> None:
    """Raise `UserError` unless ``root`` holds the ``needed`` files or folders; say what it looks like instead."""
    if not root.is_dir():
        raise UserError(f"dataset.root={root}: no such folder; scripts/prepare.py {name} says how to get the data.")
    missing = [path for path in needed if not (root / path).exists()]
    if missing:
        other = looks_like(root)
        guess = f"; it looks like {other}" if other and other != name else ""
        raise UserError(f"dataset.root={root}: not {name}, which has {missing[0]}{guess}.")


def digest(examples: Sequence[Segmented], classes: Sequence[str]) -> str:
    """sha256 of class names, sample names, image sizes in bytes and the content of the label files."""
    content = hashlib.sha256("\n".join(classes).encode())
    for example in examples:
        labels = hashlib.sha256(example.labels.read_bytes()).hexdigest()
        content.update(f"{example.key}\0{example.image.stat().st_size}\0{labels}\n".encode())
    return content.hexdigest()


def _stem(path: str) -> str:
    """The folder of a path template above the part that differs between samples."""
    return path.split("{name}")[0].rpartition("/")[0]
