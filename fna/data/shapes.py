"""Generated scenes as data sets: captioned, labelled, segmented and asked, all from the same seeds.

Nothing has to be fetched: a split is drawn at the first `load`, into a cache, in COCO's formats (`scene_files`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fna.data.bank import LabelledDataset
from fna.data.base import Asked, Captioned, Dataset, Labelled, Segmented
from fna.data.scene_captions import LEVELS
from fna.data.scene_files import SEEDS, digest_of, foreign_picture, write_split
from fna.data.scene_questions import KINDS
from fna.data.scenes import COLOURS, SHAPES
from fna.errors import UserError
from fna.folders import ANOTHER, cache_folder
from fna.records import unwritten
from fna.values import Count, Domain, between

if TYPE_CHECKING:
    from fna.data.segmentation import SegmentedDataset

__all__ = ["SEEDS", "Shapes", "ShapesAsked", "ShapesSegmented", "ShapesSingle", "write_split"]


@dataclass(frozen=True)
class _Drawn:
    """What all four have in common. `root`: the cache, None for the usual one; `count` images of `size` pixels."""

    split: str = "test"
    count: Count = 500
    size: Annotated[int, between(16, 4096)] = 256
    root: str | None = None
    name: str = "shapes"
    domain: Domain = "generated"

    def check(self) -> None:
        """Raise `UserError` for a split or a size that there is not."""
        if self.split not in SEEDS:
            raise UserError(f"dataset.split={self.split}: no such split; there is {', '.join(SEEDS)}.")
        if not (isinstance(self.count, int) and isinstance(self.size, int)) or self.count < 1 or self.size < 16:
            raise UserError(
                f"dataset.count={self.count} dataset.size={self.size}: whole numbers, at least 1 image of 16 pixels is drawn."
            )

    def _folder(self, kind: str = "scenes") -> Path:
        self.check()
        root = Path(self.root) if self.root else cache_folder()
        self._refuse_pictures(root)
        try:
            return write_split(root, self.split, self.count, self.size, kind)
        except OSError as error:
            raise unwritten(root, error, ANOTHER) from error

    def _refuse_pictures(self, root: Path) -> None:
        """Raise `UserError` where pictures lie below ``root``: somebody's own, where none is drawn."""
        if self.root and (picture := foreign_picture(root)):
            raise UserError(
                f"dataset.root={self.root}: holds pictures ({picture.name}), and dataset={self.name} draws its own and reads none; "
                "for yours give dataset=images, or dataset=imagefolder where each class has a folder."
            )

    def _annotations(self, folder: Path, table: str) -> Any:
        return json.loads((folder / f"annotations/{table}_{self.split}.json").read_text())

    def _digest(self, folder: Path, choice: str) -> str:
        """The folder's digest with what was chosen of it."""
        return hashlib.sha256(f"{digest_of(folder)} {choice}".encode()).hexdigest()

    def _images(self, folder: Path) -> dict[int, Path]:
        return {image["id"]: folder / self.split / image["file_name"] for image in self._annotations(folder, "captions")["images"]}


@dataclass(frozen=True)
class Shapes(_Drawn):
    """Scenes of three to five things with their captions: those of one level, or "all" five. ``twins``: every second scene is
    the one before with one thing changed (`scene_twins`)."""

    twins: bool = True
    captions: Literal["terse", "coloured", "related", "detailed", "full", "all"] = "full"
    gives: ClassVar[type] = Captioned

    def load(self, limit: int | None) -> Dataset[Captioned]:
        """The first `limit` scenes."""
        if self.captions not in (*LEVELS, "all"):
            raise UserError(f"dataset.captions={self.captions}: no such level; there is {', '.join(LEVELS)}, all.")
        folder = self._folder("twins" if self.twins else "scenes")
        texts: dict[int, list[str]] = {}
        for note in self._annotations(folder, "captions")["annotations"]:
            if self.captions in ("all", note["level"]):
                texts.setdefault(note["image_id"], []).append(note["caption"])
        images = self._images(folder)
        examples = [Captioned(str(key), images[key], tuple(texts[key])) for key in list(images)[:limit]]
        return Dataset(self.name, self.split, self.domain, self._digest(folder, self.captions), examples)


@dataclass(frozen=True)
class ShapesSingle(_Drawn):
    """Scenes of one thing, labelled by its "shape", "colour" or "both"; `train_count` scenes of the split `train` to learn from."""

    by: Literal["shape", "colour", "both"] = "shape"
    train: str = "train"
    train_count: Count = 500
    gives: ClassVar[type] = Labelled

    def load(self, limit: int | None) -> LabelledDataset:
        """The first `limit` scenes."""
        both = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
        known = {"shape": list(SHAPES), "colour": list(COLOURS), "both": both}
        if self.by not in known:
            raise UserError(f"dataset.by={self.by}: labels are by {', '.join(known)}.")
        classes = known[self.by]
        folder = self._folder("single")
        images = self._images(folder)
        examples = []
        for note in self._annotations(folder, "instances")["annotations"][:limit]:
            shape, colour = SHAPES[note["category_id"] - 1], note["attributes"]["colour"]
            label = {"shape": shape, "colour": colour, "both": f"{colour} {shape}"}[self.by]
            examples.append(Labelled(str(note["image_id"]), images[note["image_id"]], classes.index(label)))
        data = LabelledDataset(self.name, self.split, self.domain, self._digest(folder, self.by), examples, classes)
        if self.train != self.split:
            data.training = lambda: replace(self, split=self.train, count=self.train_count).load(None)
        return data


@dataclass(frozen=True)
class ShapesSegmented(_Drawn):
    """Scenes with label maps: background, then the eight shapes; read as COCO's instances are. Heads may be trained on
    `train_count` scenes of the split `train`."""

    train: str = "train"
    train_count: Count = 500
    gives: ClassVar[type] = Segmented

    def load(self, limit: int | None) -> SegmentedDataset:
        """The first `limit` scenes."""
        from fna.data.coco_masks import CocoInstances

        data = CocoInstances(str(self._folder()), self.split, name=self.name, domain=self.domain).load(limit)
        if self.train != self.split:
            data.training = lambda: replace(self, split=self.train, count=self.train_count).load(None)
        return data


@dataclass(frozen=True)
class ShapesAsked(_Drawn):
    """Scenes with questions of one kind (see `scene_questions.KINDS`) or of "all"."""

    kind: str = "all"
    gives: ClassVar[type] = Asked

    def load(self, limit: int | None) -> Dataset[Asked]:
        """The first `limit` questions."""
        if self.kind not in (*KINDS, "all"):
            raise UserError(f"dataset.kind={self.kind}: no such kind; there is {', '.join(KINDS)}, all.")
        folder = self._folder()
        images = self._images(folder)
        examples = [
            Asked(f"{key}-{asked['kind']}", images[int(key)], asked["question"], (asked["answer"],), asked["kind"])
            for key, questions in self._annotations(folder, "questions").items()
            for asked in questions
            if self.kind in ("all", asked["kind"])
        ]
        return Dataset(self.name, self.split, self.domain, self._digest(folder, self.kind), examples[:limit])
