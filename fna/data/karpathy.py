"""Karpathy's splits of COCO and Flickr30k: dataset_coco.json, dataset_flickr30k.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fna.data import captions, files
from fna.data.base import Captioned, Dataset
from fna.errors import UserError
from fna.values import Count, Domain


@dataclass(frozen=True)
class KarpathyCaptions:
    """Images of one ``split`` in the file's order ("test" has 5,000 of COCO, 1,000 of Flickr30k; it is not COCO's val2017).

    ``annotations`` and the folder ``images`` lie in ``root``. An image is looked for where the file says (COCO: val2014/...), then
    by its COCO number in val2017 and train2017, which hold the same photographs under other names.
    """

    root: str
    annotations: str
    images: str = "."
    split: str = "test"
    captions_per_image: Count | Literal["all"] = "all"
    domain: Domain = "photographs"
    name: str = "coco_karpathy"

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
        source = Path(self.root) / self.annotations
        content = files.read_json(source)
        try:
            chosen = [entry for entry in content["images"] if entry["split"] == self.split]
            found = [self._captioned(entry) for entry in (chosen if limit is None else chosen[:limit])]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{source}: not in Karpathy's format ({error!r}); give dataset_*.json with dataset.annotations=PATH."
            ) from error
        return captions.dataset(self.name, self.split, self.domain, source, found, limit, self.captions_per_image)

    def _captioned(self, entry: Mapping[str, Any]) -> Captioned:
        texts = tuple(sentence["raw"].strip() for sentence in sorted(entry["sentences"], key=lambda each: each["sentid"]))
        return Captioned(entry["filename"], self._place(entry), texts)

    def _place(self, entry: Mapping[str, Any]) -> Path:
        folder = Path(self.root) / self.images
        named = folder / entry.get("filepath", "") / entry["filename"]
        if "cocoid" not in entry or named.exists():
            return named
        renamed = [folder / part / f"{entry['cocoid']:012d}.jpg" for part in ("val2017", "train2017")]
        return next((path for path in renamed if path.exists()), named)
