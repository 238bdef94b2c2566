"""Karpathy's splits of COCO and Flickr30k: dataset_coco.json, dataset_flickr30k.json."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fna.data import captions, files
from fna.data.absent import Missing
from fna.data.base import Captioned, Dataset
from fna.data.entries import Entry, in_order, read
from fna.data.places import existing
from fna.values import Count, Domain


@dataclass(frozen=True)
class KarpathyCaptions:
    """Images of one ``split`` in the file's order ("test" has 5,000 of COCO, 1,000 of Flickr30k; it is not COCO's val2017).

    ``annotations`` and the folder ``images`` lie in ``root``. An image is looked for where the file says (COCO: val2014/...), then
    by its COCO number in val2017 and train2017, which hold the same photographs under other names. ``missing``:
    "skip" leaves out, and notes, images whose file is not there.
    """

    root: str
    annotations: str
    images: str = "."
    split: str = "test"
    captions_per_image: Count | Literal["all"] = "all"
    missing: Missing = "refuse"
    domain: Domain = "photographs"
    name: str = "coco_karpathy"
    gives: ClassVar[type] = Captioned

    def __post_init__(self) -> None:
        captions.check_count(self.captions_per_image)

    def check(self) -> None:
        """Raise `UserError` where root, annotations or images are not there."""
        root = Path(self.root)
        files.check_folder(root)
        captions.check_annotations(root, self.annotations)
        files.check_folder(root / self.images, "dataset.images")

    def load(self, limit: int | None) -> Dataset[Captioned]:
        """The first ``limit`` images. Raises `UserError` for a file in another format or images that are not there."""
        self.check()
        source = Path(self.root) / self.annotations
        chosen = [
            entry
            for entry in read(source, "not in Karpathy's format", "images").entries("images")
            if entry.text("split") == self.split
        ]
        found = [self._captioned(entry) for entry in chosen]
        return captions.dataset(self.name, self.split, self.domain, source, found, limit, self.captions_per_image, self.missing)

    def _captioned(self, entry: Entry) -> Captioned:
        told = entry.entries("sentences")
        if all(sentence.ident("sentid", None) is not None for sentence in told):
            told = sorted(told, key=lambda sentence: in_order(sentence.ident("sentid")))
        return Captioned(entry.text("filename"), self._place(entry), tuple(sentence.text("raw").strip() for sentence in told))

    def _place(self, entry: Entry) -> Path:
        folder = Path(self.root) / self.images
        named = existing(folder / entry.text("filepath", "") / entry.text("filename"))
        number = entry.whole("cocoid", None)
        if number is None or os.path.exists(named):  # of a name too long for a file `Path.exists` raises
            return named
        renamed = [folder / part / f"{number:012d}.jpg" for part in ("val2017", "train2017")]
        return next((path for path in renamed if path.exists()), named)
