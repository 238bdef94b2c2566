"""Classifying by what other images teach: nearest neighbours and a linear probe on frozen image features.

Features are the model's image embeddings (for a ViT its final-norm class token), computed once for the images to learn from and
kept on disk. They are learnt under full attention, or with ``refit`` under each variant's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fna.data.bank import LabelledDataset
from fna.data.base import Dataset, Labelled
from fna.data.layouts import teaches
from fna.data.loading import batches
from fna.errors import UserError
from fna.metrics.accuracy import top_k
from fna.models.base import Model
from fna.progress import say, through
from fna.tasks import by_class
from fna.tasks.base import FULL, Array, Outcome, Run
from fna.tasks.cache import cached_rows, digest_of
from fna.tasks.exhibits import Sections, Show
from fna.tasks.images import look
from fna.values import Count, Positive, Rate, Says, between, counted

KS = (1, 5)
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
HELD_OUT = 4  # every fourth image to learn from chooses the rate

Classifier = Callable[[Array], Array]  # features [n, D] -> scores [n, C]


@dataclass
class Learnt(ABC):
    """What both have in common; `fit` makes a classifier of the features and labels to learn from."""

    cache: str = "outputs/cache"
    refit: bool = False
    version: int = 2
    asks: ClassVar[type] = Labelled
    needs: ClassVar[frozenset[str]] = frozenset({"encode_image"})
    called: ClassVar[str] = "classifier"
    _fitted: dict[str, tuple[str, Classifier]] = field(default_factory=dict, repr=False)

    @abstractmethod
    def fit(self, features: Array, labels: Array, classes: int, seed: int) -> Classifier:
        """A classifier of features ``[n, D]`` with labels ``[n]``."""

    def check_source(self, source: Any) -> None:
        """Raise `UserError` for a data set that is told of no images to learn from."""
        if not teaches(source):
            raise UserError(_untaught(source.name, hasattr(source, "bank"), getattr(source, "others", list)()))

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for a model without image embeddings or data without images to learn from."""
        if model.encode_image is None:
            raise UserError(f"{model.name} embeds no images: choose another model.")
        if not isinstance(dataset, LabelledDataset) or dataset.training is None:
            if not dataset.classes or not all(isinstance(example, Labelled) for example in dataset.examples):
                raise UserError(
                    f"{dataset.name} has no class for each image, and task=knn and task=probe learn classes: "
                    "give images in a folder a class (dataset=imagefolder), or task=fidelity, which needs none."
                )
            raise UserError(_untaught(dataset.name, bank=True))
        if len(dataset.classes) < 2:
            raise UserError(f"{dataset.name} has {counted(len(dataset.classes), 'class', 'classes')}; there must be at least two.")

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """The image embedding."""
        assert model.encode_image is not None
        return model.encode_image

    def prepare(self, model: Model, dataset: Dataset, run: Run) -> str:
        """Learn under the attention at work; returns the digest of what was learnt from and with which seed."""
        assert isinstance(dataset, LabelledDataset)
        assert dataset.training is not None
        data = dataset.training()
        decides = {"model": model.identity, "size": model.image_size, "variant": run.variant, "data": data.digest}
        embedded = digest_of(decides)
        key = digest_of({**decides, "seed": run.seed})
        if self._fitted.get(run.variant, ("",))[0] != key:
            features = unit(_kept(model, data, run, Path(self.cache) / "embeddings" / f"{embedded}.npy"))
            labels = np.array([example.label for example in data.examples])
            self._fitted[run.variant] = (key, self.fit(features, labels, len(dataset.classes), run.seed))
        return key

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the images that are asked about."""
        self.check(model, dataset)
        variant = run.variant if self.refit else FULL
        if variant == run.variant:
            self.prepare(model, dataset, run)
        seen = look(self.forward(model), model, dataset, run)
        scores = self._fitted[variant][1](unit(seen.outputs)).astype(np.float32)
        own = np.array([dataset.examples[place].label for place in seen.kept])
        decisions = scores.argmax(axis=1)
        return Outcome(
            keys=[dataset.examples[place].key for place in seen.kept],
            counts={"seen": np.ones(len(own), np.int64)} | {f"top{k}": hit for k, hit in top_k(scores, own, KS).items()},
            outputs=scores,
            decisions=decisions,
            labels=[dataset.classes[row] for row in decisions],
            truths=[dataset.classes[row] for row in own],
            skipped=seen.skipped,
        )

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """``top1`` and ``top5`` in percent."""
        return {f"top{k}": 100.0 * sums[f"top{k}"] / sums["seen"] for k in KS}

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]:
        """From how many images was learnt."""
        assert isinstance(dataset, LabelledDataset)
        assert dataset.training is not None
        return [f"{self.called}: learnt from {counted(len(dataset.training().examples), 'image')}"]

    def exhibits(self, show: Show) -> Sections:
        """``classes.csv``."""
        by_class.write(show)
        return {}


@dataclass
class Neighbours(Learnt):
    """k-NN as DINOv2 has it: of the ``k`` nearest by cosine each votes for its class with weight softmax(cosine / temperature)."""

    k: Count = 20
    temperature: Positive = 0.07
    called: ClassVar[str] = "nearest neighbours"

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]:
        """Besides, a k that takes all there is: classes with more images have more votes everywhere."""
        assert isinstance(dataset, LabelledDataset)
        assert dataset.training is not None
        count = len(dataset.training().examples)
        all_vote = (
            f"task.k={self.k} and {counted(count, 'image')} to learn from: all of them vote on each image; give a smaller task.k"
        )
        return [*super().notes(outcome, dataset), *[all_vote] * (self.k >= count)]

    def __post_init__(self) -> None:
        if self.k < 1 or self.temperature <= 0:
            raise ValueError(f"task.k={self.k}, task.temperature={self.temperature}: give k of at least 1, a temperature above 0.")

    def fit(self, features: Array, labels: Array, classes: int, seed: int) -> Classifier:
        """Scores ``[n, C]``: the votes. A bank smaller than k votes as a whole, which is noted."""
        bank, one_hot = features, np.eye(classes)[labels]

        def vote(queries: Array) -> Array:
            alike = queries @ bank.T
            near = np.argsort(-alike, axis=1, kind="stable")[:, : self.k]
            close = np.take_along_axis(alike, near, 1)
            weights = np.exp((close - close[:, :1]) / self.temperature)  # less the largest, which exp would overflow at
            weights /= weights.sum(1, keepdims=True)
            return np.einsum("nk,nkc->nc", weights, one_hot[near])

        return vote


@dataclass
class Probe(Learnt):
    """Logistic regression by SGD (momentum 0.9, cosine) over a sweep of ``rates``; images held out of the bank choose the rate.

    One image in four is held out, where its class keeps another; the classifier that answers is then trained on all of them. Where
    none can be held out (one image a class), the rate is the middle one of ``rates``, which is noted.
    """

    version: int = 3

    rates: Annotated[Sequence[Rate], Says("a list of rates, each from 1e-06 to 100")] = RATES
    epochs: Count = 100
    batch: Annotated[int, between(1, 16_384)] = 256  # drawn with replacement, so that no more tells more
    called: ClassVar[str] = "linear probe"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not self.rates:
            raise ValueError(
                f"task.epochs={self.epochs}, task.batch={self.batch}, task.rates={list(self.rates)}: at least 1 of each."
            )

    def fit(self, features: Array, labels: Array, classes: int, seed: int) -> Classifier:
        """Scores ``[n, C]``: logits."""
        if len(labels) < HELD_OUT:
            raise UserError(
                f"{counted(len(labels), 'image')} to learn from: task=probe needs at least {HELD_OUT}; take task=knn, or give more."
            )
        best, told = self._chosen(features, labels, classes, seed)
        say(f"probe: rate {best:g}, {told}; trained with it on all {counted(len(labels), 'image')}")
        chosen = self._descend(features, labels, classes, seed, [best])
        return lambda queries: chosen(queries)[0]

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]:
        """Besides, a rate that nothing chose."""
        assert isinstance(dataset, LabelledDataset)
        assert dataset.training is not None
        labels = np.array([example.label for example in dataset.training().examples])
        unchosen = (
            f"too few images a class to hold one out: no rate could be chosen, trained with the middle one of task.rates, "
            f"{self._middle:g}; give more images a class, or task.rates=[RATE]"
        )
        return [*super().notes(outcome, dataset), *[unchosen] * (len(self.rates) > 1 and not _held_out(labels).any())]

    @property
    def _middle(self) -> float:
        return sorted(self.rates)[len(self.rates) // 2]

    def _chosen(self, features: Array, labels: Array, classes: int, seed: int) -> tuple[float, str]:
        """The rate that is most often right on held-out images, and how often; the middle one where none can be held out."""
        held = _held_out(labels)
        if not held.any():
            return self._middle, "as no image could be held out to choose one"
        tried = self._descend(features[~held], labels[~held], classes, seed, list(self.rates))
        hits = (tried(features[held]).argmax(-1) == labels[held]).mean(-1)
        told = f"{100 * hits.max():.1f} % right on {counted(int(held.sum()), 'held-out image')}"
        return self.rates[int(np.argmax(hits))], told

    def _descend(self, features: Array, labels: Array, classes: int, seed: int, rates: list[float]) -> Classifier:
        """One classifier a rate, all trained at once: features ``[n, D]`` -> logits ``[rates, n, C]``."""
        x, y = torch.from_numpy(features).float(), torch.from_numpy(labels)
        generator = torch.Generator().manual_seed(seed)
        weight = (torch.randn(len(rates), x.shape[1], classes, generator=generator) * 0.01).requires_grad_()
        bias = torch.zeros(len(rates), 1, classes, requires_grad=True)
        # standardised features: one scale for the rates whatever the model's norm
        mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
        steps = self.epochs * -(-len(y) // self.batch)
        scale = torch.tensor(rates)[:, None, None]
        moment = [torch.zeros_like(weight), torch.zeros_like(bias)]
        for step in through(range(steps), "training the probe", steps):
            picked = torch.randint(len(y), (self.batch,), generator=generator)
            logits = (x[picked] - mean) / deviation @ weight + bias
            loss = F.cross_entropy(logits.flatten(0, 1), y[picked].repeat(len(rates))) * len(rates)
            rate = scale * 0.5 * (1 + np.cos(np.pi * step / steps))
            gradients = torch.autograd.grad(loss, (weight, bias))
            with torch.no_grad():
                for parameter, momentum, gradient in zip((weight, bias), moment, gradients, strict=True):
                    momentum.mul_(0.9).add_(gradient)
                    parameter.sub_(rate * momentum)
        w, b, m, d = (part.detach().numpy() for part in (weight, bias, mean, deviation))
        return lambda queries: ((queries - m) / d) @ w + b


def _held_out(labels: Array) -> Array:
    """Which images ``[n]`` choose the rate: every fourth, where another of its class is learnt from."""
    fourth = np.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
    return fourth & np.isin(labels, labels[~fourth])


def _untaught(name: str, bank: bool, others: Sequence[str] = ()) -> str:
    """What is said of a data set without images to learn from; ``bank``: whether it can be told to keep some of its own.

    ``others``: the folders beside the split that is asked about.
    """
    more = ", or dataset.bank=4, which takes the first 4 images of each class" if bank else ", another than dataset.split"
    there = f"; beside it there is {', '.join(others[:6])}" if others else ""
    return f"{name} has no images to learn from: give a split of the same classes with dataset.train=SPLIT{more}{there}."


def unit(features: Array) -> Array:
    """Rows ``[n, D]`` of length 1, float32."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _kept(model: Model, data: Dataset[Labelled], run: Run, file: Path) -> Array:
    """Embeddings ``[n, D]`` of all images of ``data``, memory-mapped; all of them must be readable."""
    embed = model.encode_image
    assert embed is not None

    def seen(images: Tensor) -> Array:
        with torch.inference_mode():
            return embed(images.to(model.device, model.dtype)).float().cpu().numpy()

    def pieces(done: int) -> Iterator[Array]:
        skipped: list[str] = []
        reader = batches(
            data.examples, model.transform, batch_size=run.batch_size, skipped=skipped, start=done, reading=run.reading
        )
        total = -(-(len(data.examples) - done) // run.batch_size)
        for batch in through(reader, "images to learn from, in batches", total):
            if skipped:
                raise UserError(f"{data.name}: {skipped[0]}; all images to learn from have to be readable: mend or remove it.")
            yield seen(batch.images)

    width = seen(torch.zeros(1, 3, *model.image_size)).shape[1]
    return cached_rows(file, (len(data.examples), width), pieces, "float32")
