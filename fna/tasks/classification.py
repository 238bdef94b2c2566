"""Top-1 and top-5: by the model's head, or zero-shot from class names."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fna.data.base import Dataset, Labelled
from fna.data.places import by_name, composed
from fna.errors import UserError
from fna.metrics.accuracy import top_k
from fna.metrics.calibration import calibration_counts, expected_calibration_error
from fna.metrics.words import folded
from fna.models.base import Model
from fna.tasks import by_class
from fna.tasks.base import Array, Outcome, Run
from fna.tasks.class_names import check_names
from fna.tasks.exhibits import Sections, Show
from fna.tasks.images import look
from fna.tasks.texts import Template, class_texts, sentences

KS = (1, 5)
BY_IMAGES = (  # a model whose head or texts do not fit the classes
    "task=knn or task=probe, which learn classes from images (dataset.train=SPLIT or dataset.bank=4), or task=fidelity"
)
ENOUGH, SURE = 20, 0.5  # images, and their mean probability, from which on a head that is right by chance alone is warned of


@dataclass
class Classification:
    """``head``: "head", "zeroshot", or "auto" (the head where there is one). ``templates``: "simple" ("a photo of a {}."),
    "openai" (the 80 of the CLIP paper) or a list of sentences with {} for the class name. ``cache``: where class texts are kept."""

    head: Literal["auto", "head", "zeroshot"] = "auto"
    templates: str | Sequence[Template] = "simple"
    cache: str | None = None
    version: int = 4
    asks: ClassVar[type] = Labelled
    _texts: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.head not in ("auto", "head", "zeroshot"):
            raise ValueError(f"task.head={self.head}: choose auto, head or zeroshot.")
        sentences(self.templates)

    @property
    def needs(self) -> frozenset[str]:
        """What a model must have, any one of these, to be asked."""
        return frozenset({"head": {"classify"}, "zeroshot": {"encode_text"}}.get(self.head, {"classify", "encode_text"}))

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for images without a class each, a model that cannot classify, or classes that do not match."""
        if not (dataset.classes and all(isinstance(example, Labelled) for example in dataset.examples)):
            raise UserError(f"{dataset.name} has no class for each image: task=classification needs one; task=fidelity needs none.")
        if self._by_head(model):
            _note_fewer(model, dataset, len(_head_index(model, dataset)))
            return
        if model.encode_image is None or model.encode_text is None:
            raise UserError(
                f"{model.name} has neither a classification head nor a text tower{f' ({model.no_head})' if model.no_head else ''}: "
                "choose a model with one of them, or "
                f"{BY_IMAGES}."
            )
        check_names(
            model,
            dataset,
            self.templates,
            give="give their names with dataset.classes=TSV (id, name)",
            instead="learn them from images (task=knn, task=probe)",
        )

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """The head's logits, or the image embedding where classes are compared as texts."""
        forward = model.classify if self._by_head(model) else model.encode_image
        assert forward is not None
        return forward

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the data. Labels count in the order of the head, or of the dataset's classes when zero-shot.

        Where the head knows more classes than the dataset (ImageNet-R, -A), only the dataset's rows are looked at.
        """
        self.check(model, dataset)
        index = _head_index(model, dataset) if self._by_head(model) else np.arange(len(dataset.classes))
        rows = np.sort(index)
        with run.sharing():
            seen = look(self._scorer(model, dataset), model, dataset, run)
        outputs = seen.outputs[:, rows]
        own = np.array([dataset.examples[place].label for place in seen.kept])
        places = np.searchsorted(rows, index[own])
        decisions = rows[outputs.argmax(axis=1)]
        hits = top_k(outputs, places, KS)
        names = self._names(model, dataset, index)
        calibration = calibration_counts(outputs, places)
        if run.variant == "full" and self._by_head(model):
            _warn_of_chance(hits[1], calibration["gap"], len(rows))
        return Outcome(
            keys=[dataset.examples[place].key for place in seen.kept],
            counts={
                "seen": np.ones(len(own), np.int64),
                **{f"top{k}": hit for k, hit in hits.items()},
                **calibration,
            },
            outputs=outputs,
            decisions=decisions,
            labels=[names(int(row)) for row in decisions],
            truths=[names(int(row)) for row in index[own]],
            skipped=seen.skipped,
        )

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """``top1``, ``top5`` and ``ece``, the expected calibration error (lower is better), in percent."""
        hits = {f"top{k}": 100.0 * sums[f"top{k}"] / sums["seen"] for k in KS}
        return {**hits, "ece": expected_calibration_error(sums["gap"], sums["seen"])}

    def exhibits(self, show: Show) -> Sections:
        """``classes.csv``."""
        by_class.write(show)
        return {}

    def _by_head(self, model: Model) -> bool:
        if self.head == "head" and model.classify is None:
            raise UserError(f"{model.name} has no classification head: give task.head=zeroshot or a model with one.")
        return self.head != "zeroshot" and model.classify is not None

    def _names(self, model: Model, dataset: Dataset, index: Array) -> Callable[[int], str]:
        """What a row of the outputs is called: by the head, else by the dataset."""
        if self._by_head(model) and model.classes:
            return model.classes.__getitem__
        names = {int(row): name for row, name in zip(index, dataset.classes, strict=True)}
        return lambda row: names.get(row, str(row))

    def _scorer(self, model: Model, dataset: Dataset) -> Callable[[Tensor], Tensor]:
        if self._by_head(model):
            assert model.classify is not None
            return model.classify
        assert model.encode_image is not None
        encode = model.encode_image
        # Classes of one text get one logit, bit for bit: by itself a product may round its columns differently.
        texts, place = self._class_texts(model, dataset).unique(dim=0, return_inverse=True)
        # 100 is the temperature of every published CLIP; it moves no argmax, and puts the outputs on the scale of logits.
        return lambda images: (100 * normalize(encode(images).float(), dim=-1) @ texts.T)[:, place]

    def _class_texts(self, model: Model, dataset: Dataset) -> Tensor:
        """Unit vectors ``[C, E]`` of the class names; kept for the next variant, and with ``cache`` for the next run."""
        key = (model.weights.digest, str(model.dtype), *dataset.classes)
        if key not in self._texts:
            self._texts = {key: class_texts(model, dataset.classes, self.templates, self.cache)}
        return self._texts[key]


def _warn_of_chance(right: Array, gap: Array, classes: int) -> None:
    """Warn of a head that is sure of answers no better than chance: most likely its rows are other classes than was said."""
    images, chance = len(right), len(right) / classes
    sure = float((gap.sum(1) + right).sum()) / max(images, 1)  # gaps hold confidence minus correctness
    if images >= ENOUGH and sure > SURE and right.sum() <= chance + 3 * np.sqrt(chance):
        warnings.warn(
            f"full is right on {int(right.sum())} of {images} images, which is chance, and sure of itself (mean probability "
            f"{sure:.2f}): the head's rows may be classes in another order (model.classes=TSV says which row is which).",
            stacklevel=2,
        )


def _note_fewer(model: Model, dataset: Dataset, asked: int) -> None:
    """Note that other classes of the head are no answers, as the authors of ImageNet-A and -R have it: top-1 is higher for that."""
    known = _head_size(model)
    if asked < known:
        told = f"answers are the {asked} classes of {dataset.name} alone, of {known} that the head of {model.name} knows"
        _note(dataset, f"{told}; among all of those top-1 is no higher")


def _head_index(model: Model, dataset: Dataset) -> Array:
    """The row of the head for each label of the dataset, int64 ``[labels]``: by class id, else by name.

    Where the model knows neither, or other names, as many rows as labels in the same order are taken for granted, and noted.
    Raises `UserError` where none of it works.
    """
    if model.class_ids:
        if not dataset.class_ids:
            raise UserError(
                f"{dataset.name} gives its classes no ids, and the head of {model.name} goes by them: "
                "give a data set of its classes, or a model with a text tower."
            )
        row = {name: index for index, name in enumerate(model.class_ids)}
        called = by_name(dataset.class_ids, model.class_ids)
        foreign = [name for name in dataset.class_ids if name not in called]
        if foreign:
            raise UserError(
                f"{model.name} does not know {len(foreign)} of the {len(dataset.class_ids)} classes of {dataset.name} (first: "
                f"{foreign[0]}): give model.classes=TSV with the ids of its head's rows, or a data set of its classes; a model of "
                f"other classes is asked by {BY_IMAGES}."
            )
        return np.array([row[called[name]] for name in dataset.class_ids])
    row = _by_name(model.classes or ())
    known = [row.get(folded(composed(name)), -1) for name in dataset.classes]
    if known and min(known) >= 0 and len(set(known)) == len(known):
        return np.array(known)
    rows = _head_size(model)
    if rows != len(dataset.classes):
        raise UserError(
            f"{model.name} has {rows} classes and {dataset.name} {len(dataset.classes)}: say which is which with "
            f"model.classes=TSV; a model of other classes is asked by {BY_IMAGES}."
        )
    elsewhere = [label for label, place in enumerate(known) if 0 <= place != label]
    if 2 * len(elsewhere) > sum(place >= 0 for place in known):
        label = elsewhere[0]
        raise UserError(
            f"{model.name}: its head has {dataset.classes[label]} in row {known[label]}, {dataset.name} as class {label}, and not "
            "all names match: say which row is which class with model.classes=TSV."
        )
    said = "calls its classes otherwise" if model.classes else "does not say its classes"
    _note(dataset, f"class order not checked: the model's head {said} (model.classes=TSV would tell){_elsewhere_in_timm(dataset)}")
    return np.arange(rows)


def _elsewhere_in_timm(dataset: Dataset) -> str:
    """What to say of folders that timm's train.py numbers otherwise than torchvision: 2 before 10, and apple before Zebra."""
    ids = list(dataset.class_ids or dataset.classes)
    timms = sorted(ids, key=_as_timm_sorts)
    if ids == timms or ids != sorted(ids):  # the latter stand in an order that somebody gave
        return ""
    place = next(place for place, (here, there) in enumerate(zip(ids, timms, strict=True)) if here != there)
    return (
        f"; class {place} is {ids[place]!r} here, as torchvision sorts folders, and {timms[place]!r} where timm's train.py "
        "trained the head: then give model.classes=TSV, the folders' names in that order"
    )


def _as_timm_sorts(name: str) -> list[int | str]:
    """timm's `natural_key`: without regard to capitals, digits as the number that they are."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def _by_name(names: Sequence[str]) -> dict[str, int]:
    """Rows by names that stand there once."""
    alike = [folded(composed(name)) for name in names]
    times = Counter(alike)
    return {name: row for row, name in enumerate(alike) if times[name] == 1}


def _note(dataset: Dataset, said: str) -> None:
    if said not in dataset.notes:
        dataset.notes.append(said)


def _head_size(model: Model) -> int:
    size = getattr(model.tower, "num_classes", None)
    if isinstance(size, int) and size > 0:
        return size
    assert model.classify is not None
    with torch.inference_mode():
        blank = torch.zeros(1, 3, *model.image_size, device=model.device, dtype=model.dtype)
        return int(model.classify(blank).shape[-1])
