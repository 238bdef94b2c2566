"""Semantic segmentation: a head on patches, scores taken up to the label's own size, one confusion matrix an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fna.data.base import Dataset, Segmented
from fna.data.label_values import unlike
from fna.data.segmentation import SegmentedDataset
from fna.errors import UserError
from fna.metrics.boundary import SHARE, boundary_areas, boundary_score
from fna.metrics.iou import IGNORE, areas, confusion, label_notes, segmentation_scores
from fna.models.base import Model
from fna.tasks import by_class, segment_pictures
from fna.tasks.base import Array, FromFiles, Learning, Outcome, Run
from fna.tasks.dense import Inference, Score, pil_to_pixels
from fna.tasks.exhibits import Sections, Show
from fna.values import within

LATTICE = 64  # points a side at which two variants' label maps are compared
POOLED = 4  # cells a side over which scores are averaged for the relative error


class Head(Protocol):
    """What turns images into scores of classes on the model's grid."""

    def check(self, model: Model, dataset: SegmentedDataset) -> None: ...

    def features(self, model: Model, images: Tensor) -> Tensor: ...

    def prepare(self, model: Model, dataset: SegmentedDataset, run: Run, view: Inference, cache: Path) -> str: ...

    def score(self, model: Model, dataset: SegmentedDataset, run: Run, view: Inference, cache: Path) -> Score: ...


@runtime_checkable
class Trained(Protocol):
    """A head that says what it was trained on."""

    def notes(self, dataset: SegmentedDataset) -> list[str]: ...


@dataclass
class Segmentation:
    """``head``: a linear one or CLIP's words. ``cache``: where features and heads are kept. ``boundary``: share of the diagonal
    that the band of boundary IoU is wide, 0.005 for Cityscapes."""

    head: Head
    inference: Inference = field(default_factory=Inference)
    cache: str = "outputs/cache"
    boundary: Annotated[float, within(0, 1)] = SHARE
    version: int = 2
    asks: ClassVar[type] = Segmented

    @property
    def needs(self) -> frozenset[str] | None:
        """What a model must have for the head."""
        return getattr(self.head, "needs", None)

    def check_files(self) -> None:
        """Raise `UserError` for a head's file that is not there."""
        if isinstance(self.head, FromFiles):
            self.head.check_files()

    def check_source(self, source: Any) -> None:
        """Raise `UserError` for a data set that a head cannot be trained on."""
        if isinstance(self.head, Learning):
            self.head.check_source(source)

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for data without label maps, fewer than two classes, or a head that does not fit."""
        self.head.check(model, _segmented(dataset))

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """Patch features: the head behind them is a fraction of a percent of the work."""
        return lambda images: self.head.features(model, images)

    def prepare(self, model: Model, dataset: Dataset, run: Run) -> str:
        """The head for full attention, trained if need be."""
        return self.head.prepare(model, _segmented(dataset), run, self.inference, Path(self.cache))

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the data. Raises `UserError` naming the file for a label map that does not fit its image."""
        data, gathered = _segmented(dataset), _Gathered()
        for index, scores in self.score_maps(model, data, run, gathered.skipped):
            example = data.examples[index]
            gathered.add(example.key, self._compared(scores, _labels(data, example, scores)))
        return gathered.outcome(list(data.classes))

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """``miou``, ``macc``, ``aacc``, ``boundary_iou`` in percent."""
        return {**segmentation_scores(sums), "boundary_iou": boundary_score(sums)}

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]:
        """What the head was trained on, classes labelled nowhere, a large share of ignored pixels, classes called alike."""
        alike = [name for name, times in Counter(dataset.classes).items() if times > 1]
        twins = [f"several classes are called {', '.join(alike[:3])}: each counts by itself, as numbers have it"] * bool(alike)
        told = self.head.notes(_segmented(dataset)) if isinstance(self.head, Trained) else []
        return [*told, *label_notes(outcome.counts, dataset.classes), *twins]

    def exhibits(self, show: Show) -> Sections:
        """``classes.csv``, and label maps where full and the variant differ most."""
        by_class.write(show)
        return {"segments": segment_pictures.draw(show, self.score_maps)}

    def score_maps(self, model: Model, data: SegmentedDataset, run: Run, skipped: list[str]) -> Iterator[tuple[int, Tensor]]:
        """(index, scores ``[C, H, W]`` at the image's own size) of every image that can be read; keys of others in ``skipped``."""
        score = self.head.score(model, data, run, self.inference, Path(self.cache))
        loaded = run.batches(data.examples, pil_to_pixels, skipped, batch_size=1)
        for indices, images in _alike(((batch.indices, batch.images, batch.tried) for batch in loaded), run):
            yield from zip(indices, self.inference.scores(model, score, images), strict=True)

    def _compared(self, scores: Tensor, label: Array) -> dict[str, Array]:
        """What one image gives: counts, its label map on a lattice, its scores averaged over cells."""
        classes = len(scores)
        prediction = scores.argmax(0).cpu().numpy()
        rows, columns = (((np.arange(LATTICE) + 0.5) * side / LATTICE).astype(int) for side in prediction.shape)
        return {
            **areas(confusion(prediction, label, classes)),
            "ignored": np.array((label == IGNORE).sum()),
            **boundary_areas(prediction, label, classes, share=self.boundary),
            "decisions": prediction[np.ix_(rows, columns)].reshape(-1),
            "outputs": F.adaptive_avg_pool2d(scores.float(), POOLED).flatten().cpu().numpy(),
        }


class _Gathered:
    """Per-image results on their way to an `Outcome`."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.skipped: list[str] = []
        self.parts: list[dict[str, Array]] = []

    def add(self, key: str, part: dict[str, Array]) -> None:
        self.keys.append(key)
        self.parts.append(part)

    def outcome(self, classes: list[str]) -> Outcome:
        """``labels`` and ``truths`` name the class with most pixels in each image."""
        stacked = {name: np.stack([part[name] for part in self.parts]) for name in self.parts[0]}
        decisions, outputs = stacked.pop("decisions"), stacked.pop("outputs")
        most = {name: [classes[place] for place in stacked[name].argmax(1)] for name in ("predicted", "labelled")}
        return Outcome(self.keys, stacked, outputs, decisions, most["predicted"], most["labelled"], self.skipped)


def _alike(loaded: Iterator[tuple[list[int], Tensor, int]], run: Run) -> Iterator[tuple[list[int], Tensor]]:
    """Neighbouring images of one size in batches of at most ``run.batch_size``; tells ``run`` what has been read."""
    indices: list[int] = []
    images: list[Tensor] = []
    for index, image, tried in loaded:
        run.progress(tried)
        if images and index and (len(images) == run.batch_size or images[0].shape != image.shape):
            yield indices, torch.cat(images)
            indices, images = [], []
        if index:
            indices, images = [*indices, *index], [*images, image]
    if images:
        yield indices, torch.cat(images)


def _segmented(dataset: Dataset) -> SegmentedDataset:
    if not isinstance(dataset, SegmentedDataset):
        raise UserError(f"{dataset.name} has no label maps: task=segmentation needs some; choose another task or dataset.")
    if len(dataset.classes) < 2:
        raise UserError(f"{dataset.name} has {len(dataset.classes)} classes; segmentation needs at least two.")
    return dataset


def _labels(data: SegmentedDataset, example: Segmented, scores: Tensor) -> Array:
    label = data.read_labels(example)
    if label.shape != tuple(scores.shape[-2:]):
        height, width = scores.shape[-2:]
        raise unlike(example, (width, height), (label.shape[1], label.shape[0]))
    return label
