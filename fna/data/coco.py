"""COCO captions in the official format: images and annotations in one JSON."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fna.data import captions, files
from fna.data.base import Captioned, Dataset
from fna.errors import UserError
from fna.values import Count, Domain


@dataclass(frozen=True)
class CocoCaptions:
    """``annotations`` (a JSON file) and ``images`` (a folder) lie in ``root``, or anywhere if absolute.

    Images come in the file's order, their captions by annotation id. ``captions_per_image``: "all", or a count (5: the convention
    that leaves 25,000 of val2017's 25,014). ``complete``: how many images the whole split has; fewer is noted.
    """

    root: str
    annotations: str
    images: str
    split: str
    captions_per_image: Count | Literal["all"] = "all"
    complete: Count | None = None
    domain: Domain = "photographs"
    name: str = "coco"

    def __post_init__(self) -> None:
        captions.check_count(self.captions_per_image)

    def check(self) -> None:
        """Raise `UserError` where root, annotations or images are not there."""
        root = Path(self.root)
        files.check_folder(root)
        files.check_file(root / self.annotations)
        files.check_folder(root / self.images, "dataset.images")

    def load(self, limit: int | None) -> Dataset[Captioned]:
        """The first ``limit`` images. Raises `UserError` for a file in another format or images that are not there."""
        self.check()
        root = Path(self.root)
        source = root / self.annotations
        content = files.read_json(source)
        texts: dict[int, list[str]] = defaultdict(list)
        try:
            for note in sorted(content["annotations"], key=lambda note: note["id"]):
                texts[note["image_id"]].append(note["caption"].strip())
            entries = [(image["id"], image["file_name"]) for image in content["images"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{source}: no COCO captions file ({error!r}); give captions_*.json with dataset.annotations=PATH."
            ) from error
        found = [Captioned(name, root / self.images / name, tuple(texts[number])) for number, name in entries]
        data = captions.dataset(self.name, self.split, self.domain, source, found, limit, self.captions_per_image)
        if self.complete is not None and len(found) != self.complete:
            data.notes.append(f"{source.name} holds {len(found)} images, not the {self.complete} of {self.split}")
        return data
