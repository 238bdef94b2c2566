"""How like full attention's a variant's answers are, for images of which nothing is known: of whole images, or of patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from fna.data.base import Dataset
from fna.errors import UserError
from fna.metrics.neighbours import ONE_NUMBER, nearest_other
from fna.models.base import Model
from fna.tasks.base import Array, Outcome, Run
from fna.tasks.images import look


@dataclass
class Fidelity:
    """A model with a head decides by it, and agreement is of classes; of any other the decision is which other image is the
    nearest, by the cosine of their embeddings. Nothing is right or wrong, so there are no metrics: agreement and output error are
    all that is to be told.
    """

    version: int = 2
    needs: ClassVar[frozenset[str]] = frozenset({"encode_image"})

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for a model that gives neither classes nor embeddings, or a lone image, to which none is nearest."""
        if model.classify is None and model.encode_image is None:
            raise UserError(f"{model.name} has neither a classification head nor an image embedding: choose another model.")
        if model.classify is None and len(dataset.examples) < 2:
            raise UserError(
                f"{dataset.name} holds one image, and {model.name} without a head is asked which others are near: give two or more."
            )

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """The head's logits, else the image embedding."""
        forward = model.classify or model.encode_image
        assert forward is not None
        return forward

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the images."""
        with run.sharing():
            seen = look(self._compared(model), model, dataset, run)
        keys = [dataset.examples[place].key for place in seen.kept]
        if model.classify is not None and seen.outputs.shape[1] > 1:
            decisions = seen.outputs.argmax(axis=1)
            labels = [str(row) if model.classes is None else model.classes[row] for row in decisions]
        else:
            decisions, ranked = nearest_other(seen.outputs, keys), sorted(keys)
            labels = [ranked[place] for place in decisions]
        return Outcome(keys, {}, seen.outputs, decisions, labels, [""] * len(keys), seen.skipped)

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """None."""
        return {}

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]:
        """What is compared of a head of one row."""
        return [ONE_NUMBER] * (outcome.outputs is not None and outcome.outputs.shape[1] == 1)

    def _compared(self, model: Model) -> Callable[[Tensor], Tensor]:
        """What is compared: logits, or embeddings of length 1."""
        forward = self.forward(model)
        return forward if model.classify is not None else lambda images: normalize(forward(images).float(), dim=-1)


@dataclass
class PatchFidelity:
    """The same for dense outputs: patch tokens after the last block and norm; which other patch of its image is each most like?"""

    version: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"encode_image"})

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for a model without dense features."""
        if model.patches is None:
            raise UserError(f"{model.name} gives no patch tokens: task=fidelity compares what it gives for whole images.")

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """The patch tokens."""
        assert model.patches is not None
        return model.patches

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the images."""
        patches = self.forward(model)
        with run.sharing():
            seen = look(lambda images: patches(images).flatten(1), model, dataset, run)
        rows, columns = model.tokens.grid or (1, 1)
        names = [f"{place:09}" for place in range(rows * columns)]  # in the order of the patches
        decisions = np.stack([nearest_other(image.reshape(len(names), -1), names) for image in seen.outputs])
        nothing = [""] * len(seen.kept)
        keys = [dataset.examples[place].key for place in seen.kept]
        return Outcome(keys, {}, seen.outputs, decisions, nothing, nothing, seen.skipped)

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """None."""
        return {}
