"""COCO's instance and panoptic annotations as label maps, in the official formats."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fna.data.base import Segmented
from fna.data.segmentation import IGNORE, SegmentedDataset, check_folder
from fna.errors import UserError
from fna.values import Domain

Array = np.ndarray
BACKGROUND = "background"


@dataclass(frozen=True)
class CocoInstances:
    """Instance masks painted into one map of categories: class 0 is the background, then the categories by id.

    Larger masks are painted first, so that what stands in front of a table stays visible; crowd regions are ignored. With
    ``background`` off, pixels without an instance are ignored and the categories start at 0.
    """

    root: str
    split: str = "val2017"
    train: str | None = None
    background: bool = True
    name: str = "coco_instances"
    domain: Domain = "photographs"

    def check(self) -> None:
        """Raise `UserError` where images or annotations are missing."""
        check_folder(self.name, Path(self.root), [self.split, f"annotations/instances_{self.split}.json"])

    def load(self, limit: int | None) -> SegmentedDataset:
        """Images that have annotations, by id."""
        file = Path(self.root) / "annotations" / f"instances_{self.split}.json"
        index = _Instances(file, self.background)
        folder = Path(self.root) / self.split
        examples = [
            Segmented(str(image["id"]), _existing(folder / image["file_name"], file), file) for image in index.images[:limit]
        ]
        return SegmentedDataset(
            name=self.name,
            split=self.split,
            domain=self.domain,
            digest=_digest(file, examples),
            examples=examples,
            classes=index.classes,
            read_labels=lambda example: index.paint(int(example.key)),
            training=_training(self, self.train),
        )


class _Instances:
    """An instances file behind pycocotools."""

    def __init__(self, file: Path, background: bool) -> None:
        from pycocotools.coco import COCO

        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                self.coco = COCO(str(file))
            categories = self.coco.loadCats(sorted(self.coco.getCatIds()))
            self.images = self.coco.loadImgs(sorted({entry["image_id"] for entry in self.coco.anns.values()}))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{file}: not a COCO instances file ({error}).") from error
        self.background = background
        self.classes = [BACKGROUND] * background + [category["name"] for category in categories]
        self._class = {category["id"]: place + background for place, category in enumerate(categories)}

    def paint(self, image_id: int) -> Array:
        """int64 ``[H, W]`` of one image."""
        image = self.coco.imgs[image_id]
        labels = np.full((image["height"], image["width"]), 0 if self.background else IGNORE)
        instances = self.coco.imgToAnns[image_id]
        for entry in sorted(instances, key=lambda entry: (entry["iscrowd"], entry["area"]), reverse=True):
            mask = self.coco.annToMask(entry).astype(bool)
            labels[mask] = IGNORE if entry["iscrowd"] else self._class[entry["category_id"]]
        return labels


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

    def check(self) -> None:
        """Raise `UserError` where images, PNGs or annotations are missing."""
        stem = f"annotations/panoptic_{self.split}"
        check_folder(self.name, Path(self.root), [self.split, f"{stem}.json", stem])

    def load(self, limit: int | None) -> SegmentedDataset:
        """Annotated images, by id."""
        file = Path(self.root) / "annotations" / f"panoptic_{self.split}.json"
        index = _Panoptic(file)
        entries = sorted(index.segments, key=int)[:limit]
        folder = Path(self.root) / self.split
        examples = [Segmented(key, _existing(folder / index.files[key], file), _existing(index.png(key), file)) for key in entries]
        return SegmentedDataset(
            name=self.name,
            split=self.split,
            domain=self.domain,
            digest=_digest(file, examples),
            examples=examples,
            classes=index.classes,
            read_labels=lambda example: index.paint(example.key),
            training=_training(self, self.train),
        )


class _Panoptic:
    """A panoptic file: per image its PNG and its segments."""

    def __init__(self, file: Path) -> None:
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            categories = sorted(content["categories"], key=lambda category: category["id"])
            self.files = {str(image["id"]): image["file_name"] for image in content["images"]}
            self._png = {str(entry["image_id"]): entry["file_name"] for entry in content["annotations"]}
            self.segments = {str(entry["image_id"]): entry["segments_info"] for entry in content["annotations"]}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not a COCO panoptic file ({error}).") from error
        self._folder = file.with_suffix("")
        self.classes = [category["name"] for category in categories]
        self._class = {category["id"]: place for place, category in enumerate(categories)}

    def png(self, key: str) -> Path:
        return self._folder / self._png[key]

    def paint(self, key: str) -> Array:
        """int64 ``[H, W]`` of one image: a segment's number is R + 256 G + 65536 B."""
        with Image.open(self.png(key)) as image:
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        numbers = red + 256 * green + 65536 * blue
        table = {0: IGNORE} | {
            entry["id"]: IGNORE if entry.get("iscrowd") else self._class[entry["category_id"]] for entry in self.segments[key]
        }
        found, inverse = np.unique(numbers, return_inverse=True)
        unknown = [int(number) for number in found if int(number) not in table]
        if unknown:
            raise UserError(f"{self.png(key)}: segment {unknown[0]} is not in the annotations.")
        return np.array([table[int(number)] for number in found])[inverse].reshape(numbers.shape)


def _training(source: Any, split: str | None) -> Callable[[], SegmentedDataset] | None:
    if split is None:
        return None
    return lambda: type(source)(**{**vars(source), "split": split, "train": None}).load(None)


def _existing(path: Path, named_in: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing; {named_in} names it.")
    return path


def _digest(file: Path, examples: list[Segmented]) -> str:
    content = hashlib.sha256(file.read_bytes())
    for example in examples:
        content.update(f"{example.key}\0{example.image.name}\0{example.image.stat().st_size}\n".encode())
    return content.hexdigest()
