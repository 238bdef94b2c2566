"""COCO captions in the official format, of COCO or of one's own: images and annotations in one JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fna.data import captions, files
from fna.data.absent import Missing
from fna.data.base import Captioned, Dataset
from fna.data.coco_format import by_picture, pictures
from fna.data.entries import Entry, in_order, read
from fna.errors import UserError
from fna.values import Count, Domain

FORM = '{"images": [{"id": 1, "file_name": "a.jpg"}, ...], "annotations": [{"image_id": 1, "caption": "a cat"}, ...]}'


@dataclass(frozen=True)
class CocoCaptions:
    """``annotations`` (a JSON file) and ``images`` (a folder) lie in ``root``, or anywhere if absolute.

    Images come in the file's order, their captions by annotation id where they have ids. ``captions_per_image``: "all", or a count
    (5: the convention that leaves 25,000 of val2017's 25,014). ``complete``: how many images the whole split has; fewer is noted.
    ``missing``: "skip" leaves out, and notes, images whose file is not there, which otherwise are refused.
    """

    root: str
    annotations: str
    images: str
    split: str
    captions_per_image: Count | Literal["all"] = "all"
    complete: Count | None = None
    missing: Missing = "refuse"
    domain: Domain = "photographs"
    name: str = "coco"
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
        root = Path(self.root)
        source = root / self.annotations
        content = read(source, "no COCO captions file", "images", "annotations", form=FORM)
        known, notes = pictures(content, root / self.images, root)
        if not known:
            raise UserError(f"{source}: images is empty.")
        told, stray = by_picture(content, known)
        found = [Captioned(each.name, each.path, _texts(told.get(each.ident, []))) for each in known.values()]
        data = captions.dataset(self.name, self.split, self.domain, source, found, limit, self.captions_per_image, self.missing)
        data.notes += [*notes, *stray]
        if self.complete is not None and len(known) != self.complete:
            data.notes.append(f"{source.name} holds {len(known)} images, not the {self.complete} of {self.split}")
        return data


def _texts(told: list[Entry]) -> tuple[str, ...]:
    """Captions of one image: by annotation id where all have one, else in the file's order."""
    if all(note.ident("id", None) is not None for note in told):
        told = sorted(told, key=lambda note: in_order(note.ident("id")))
    return tuple(note.text("caption").strip() for note in told)
