"""COCO's instance and panoptic annotations as label maps, in the official formats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from fna.data import contents, files
from fna.data.absent import Missing, left_out, remedy
from fna.data.base import Segmented
from fna.data.coco_drawing import crowds, doubts, drawing
from fna.data.coco_format import Picture, by_picture, category_names, pictures
from fna.data.entries import Entry, by_ident, in_order, read
from fna.data.files import UNREADABLE
from fna.data.label_values import IGNORE
from fna.data.layouts import check_split_name
from fna.data.pictures import reason
from fna.data.places import existing
from fna.data.segmentation import LOOKED_AT, SegmentedDataset, check_folder, learning
from fna.errors import UserError
from fna.values import Domain, counted

Array = np.ndarray
BACKGROUND = "background"
ELSEWHERE = (
    "images/{split}",
    "{split}/images",
    "images",
    "data",
    "train2017",
    "JPEGImages",
)  # of CVAT, FiftyOne and others
OTHER = re.compile(r"(^|/)(captions|person_keypoints|image_info|panoptic|stuff)_[^/]*$")  # COCO's other files
LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class CocoInstances:
    """Instance masks painted into one map of categories: class 0 is the background, then the categories by id; one that is called
    background is class 0 too.

    Larger masks are painted first, so that what stands in front of a table stays visible; crowd regions are ignored. Images
    without an instance are all background. With ``background`` off, pixels without an instance are ignored, images without one
    left out, and the categories start at 0. ``annotations`` (a file) and ``images`` (a folder) lie in ``root``; ``{split}`` is
    filled in. ``missing``: "skip" leaves out, and notes, images whose file is not there, which otherwise are refused.
    """

    root: str
    split: str = "val2017"
    train: str | None = None
    background: bool = True
    annotations: str = "annotations/instances_{split}.json"
    images: str = "{split}"
    missing: Missing = "refuse"
    name: str = "coco_instances"
    domain: Domain = "photographs"
    gives: ClassVar[type] = Segmented

    def check(self) -> None:
        """Raise `UserError` where images or annotations are missing, or the training split would be the split itself."""
        check_split_name(self.split)
        check_split_name(self.train, "dataset.train")
        self._check_layout()
        check_folder(self.name, Path(self.root), [self._in(self.images), self._in(self.annotations)])
        if self.train is not None and "{split}" not in self.annotations:
            raise UserError(
                f"dataset.train={self.train}: is no other split until {{split}} stands in dataset.annotations={self.annotations}."
            )

    def load(self, limit: int | None) -> SegmentedDataset:
        """Images by id. Raises `UserError` naming file and entry for annotations that cannot be painted."""
        self.check()
        root = Path(self.root)
        file = root / self._in(self.annotations)
        content = read(file, "not a COCO instances file", *LISTS)
        all_listed, notes = pictures(content, root / self._in(self.images), root)
        told, stray = by_picture(content, all_listed)
        named = {each.name: each.path for each in all_listed.values()}
        out, gone = left_out(named, self.missing)
        known = {ident: each for ident, each in all_listed.items() if each.name not in out}
        notes += [*stray, *gone]
        names = category_names(content)
        empty = [ident for ident in names if self.background and names[ident].strip().lower() == BACKGROUND]
        things = [ident for ident in sorted(names, key=in_order) if ident not in empty]
        places = {ident: place + self.background for place, ident in enumerate(things)} | dict.fromkeys(empty, 0)
        notes += ["the category background is class 0, as are pixels without an instance"] * bool(empty)
        bare = [ident for ident in known if ident not in told]
        if bare and not self.background:
            notes.append(
                f"{counted(len(bare), 'image')} without annotations left out: dataset.background=false ignores all their pixels"
            )
        listed = sorted(known if self.background else known.keys() - set(bare), key=in_order)[:limit]
        drawn = {ident: drawing(known[ident], told.get(ident, []), places) for ident in listed}
        notes += [*doubts(file, drawn), *crowds((entry for ident in listed for entry in told.get(ident, [])), names)]
        examples = [Segmented(ident, known[ident].path, file) for ident in listed]
        classes = [BACKGROUND] * self.background + [names[ident] for ident in things]
        _check_classes(file, classes, examples)
        data = SegmentedDataset(
            name=self.name,
            split=self.split,
            domain=self.domain,
            digest=_digest(file, self.split, examples, f"background {self.background}", mend=remedy(named)),
            examples=examples,
            classes=classes,
            notes=notes,
            read_labels=lambda example: drawn[example.key].paint(0 if self.background else IGNORE),
        )
        return learning(data, self, self.train)

    def _check_layout(self) -> None:
        """Raise `UserError` where annotations or images lie where another tool puts them, with the options that read them there."""
        root = Path(self.root)
        there = [] if (root / self._in(self.annotations)).is_file() else _annotations(root, self.split)
        if there:
            lacks = f"dataset.annotations={self.annotations}: no {self._in(self.annotations)} in {root}"
            raise UserError(f"{lacks}; for {there[0]} there give {_reading(there[0])}.")
        places = [place for place in ELSEWHERE if (root / self._in(place)).is_dir()]
        if places and not (root / self._in(self.images)).exists():
            lacks = f"dataset.images={self.images}: no such folder in {root}"
            raise UserError(f"{lacks}; give 'dataset.images=\"{places[0]}\"', which is.")

    def _in(self, path: str) -> str:
        return path.replace("{split}", self.split)


def _annotations(root: Path, split: str) -> list[str]:
    """Annotations below ``root`` that may be of instances, those of ``split`` first and those to learn from last."""
    found = [path.relative_to(root).as_posix() for path in {*root.glob("*.json"), *root.glob("*/*.json")}]
    return sorted((one for one in found if not OTHER.search(one)), key=lambda one: (split not in one, "train" in one, one))


def _reading(path: str) -> str:
    """The options by which annotations at ``path`` below the root are read."""
    folder, _, file = path.rpartition("/")
    if folder == "annotations" and file.startswith("instances_"):
        return f"dataset.split={file.removeprefix('instances_').removesuffix('.json')}"
    if folder == "annotations":
        return f"dataset.split={file.removesuffix('.json')} 'dataset.annotations=\"annotations/{{split}}.json\"'"
    if folder:
        return f"dataset.split={folder} 'dataset.annotations=\"{{split}}/{file}\"' 'dataset.images=\"{{split}}\"'"
    return f"dataset.annotations={file}, and dataset.images=FOLDER of its images"


def _check_classes(file: Path, classes: Sequence[str], examples: Sequence[Segmented]) -> None:
    if len(classes) > IGNORE:
        raise UserError(f"{file}: {len(classes)} classes; a label map holds {IGNORE} at most: give a file of fewer categories.")
    if not examples:
        raise UserError(f"{file}: annotates no image; choose another file or split.")


@dataclass(frozen=True)
class CocoPanoptic:
    """Panoptic PNGs, in which a colour is a segment number, with the JSON that names each segment's category.

    Classes are the categories by id (133 in COCO); pixels without a segment and crowd segments are ignored.
    """

    root: str
    split: str = "val2017"
    train: str | None = None
    name: str = "coco_panoptic"
    domain: Domain = "photographs"
    gives: ClassVar[type] = Segmented

    def check(self) -> None:
        """Raise `UserError` where images, PNGs or annotations are missing."""
        check_split_name(self.split)
        check_split_name(self.train, "dataset.train")
        stem = f"annotations/panoptic_{self.split}"
        check_folder(self.name, Path(self.root), [self.split, f"{stem}.json", stem])

    def load(self, limit: int | None) -> SegmentedDataset:
        """Annotated images, by id. Raises `UserError` naming file and entry for what cannot be read, damaged PNGs included."""
        self.check()
        root = Path(self.root)
        file = root / "annotations" / f"panoptic_{self.split}.json"
        content = read(file, "not a COCO panoptic file", *LISTS)
        known, notes = pictures(content, root / self.split, root)
        told, stray = by_picture(content, known)
        notes += stray
        names = category_names(content)
        places = {ident: place for place, ident in enumerate(sorted(names, key=in_order))}
        bare = len(known) - len(told.keys() & known.keys())
        notes += [f"{counted(bare, 'image')} without annotations left out"] * bool(bare)
        listed = sorted(told.keys() & known.keys(), key=in_order)[:limit]
        segments = {ident: _Segments.read(told[ident], known[ident], file, places) for ident in listed}
        notes += crowds((segment for ident in listed for segment in told[ident][0].entries("segments_info")), names)
        examples = [Segmented(ident, _existing(known[ident].path, file), segments[ident].png) for ident in listed]
        _check_classes(file, list(names.values()), examples)
        for ident in listed[:: max(1, len(listed) // LOOKED_AT)]:
            segments[ident].paint()
        data = SegmentedDataset(
            name=self.name,
            split=self.split,
            domain=self.domain,
            digest=_digest(file, self.split, examples),
            examples=examples,
            classes=[names[ident] for ident in places],
            notes=notes,
            read_labels=lambda example: segments[example.key].paint(),
        )
        return learning(data, self, self.train)


@dataclass(frozen=True)
class _Segments:
    """One image's PNG and the class of each segment number in it."""

    png: Path
    classes: Mapping[int, int]

    @staticmethod
    def read(told: Sequence[Entry], picture: Picture, file: Path, places: Mapping[str, int]) -> _Segments:
        """Raises `UserError` for two entries of an image, unknown categories, a PNG that is missing, damaged or of another size."""
        if len(told) > 1:
            raise UserError(f"{told[1].where}: image {picture.ident} is annotated twice; give one entry an image.")
        entry = told[0]
        classes = {0: IGNORE}
        for ident, segment in by_ident(entry.entries("segments_info"), "id").items():
            if ident == "0":
                raise UserError(f"{segment.where}: segment 0 is what no segment covers; give it another number, in the PNG too.")
            category = segment.ident("category_id")
            if category not in places:
                raise UserError(f"{segment.where}: category_id {category} is none of the categories.")
            classes[segment.whole("id")] = IGNORE if segment.flag("iscrowd") else places[category]
        png = _existing(file.with_suffix("") / entry.text("file_name"), file)
        try:
            with Image.open(png) as image:
                size = image.height, image.width
                image.verify()
        except UNREADABLE as error:
            raise UserError(f"{png}: damaged ({reason(error)}); fetch it again.") from error
        if picture.size() not in (None, size):
            raise UserError(f"{png}: {size[1]}x{size[0]}, which its image {picture.path} is not.")
        return _Segments(png, classes)

    def paint(self) -> Array:
        """int64 ``[H, W]`` of one image: a segment's number is R + 256 G + 65536 B."""
        try:
            with Image.open(self.png) as image:
                red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        except UNREADABLE as error:
            raise UserError(f"{self.png}: damaged ({reason(error)}); fetch it again.") from error
        numbers = red + 256 * green + 65536 * blue
        found, inverse = np.unique(numbers, return_inverse=True)
        unknown = [int(number) for number in found if int(number) not in self.classes]
        if unknown:
            raise UserError(f"{self.png}: segment {unknown[0]} is not in the annotations.")
        return np.array([self.classes[int(number)] for number in found])[inverse].reshape(numbers.shape)


def _existing(path: Path, named_in: Path) -> Path:
    path = existing(path)
    if not path.is_file():
        raise UserError(f"{path} is missing; {named_in} names it.")
    return path


def _digest(file: Path, split: str, examples: Sequence[Segmented], *reading: str, mend: str = files.FIT) -> str:
    """Of the annotations in ``file``, of what the examples' own files hold, and of how they are read."""
    return files.digest(split, examples, besides=[contents.sha256s([file])[file], *reading], mend=mend)
