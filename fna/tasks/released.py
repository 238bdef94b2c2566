"""Released linear heads from a file, as DINOv2's for ImageNet: class tokens of the last blocks beside the mean of the patches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fna.data.base import Dataset
from fna.data.files import read_classes
from fna.data.imagenet import LIST
from fna.errors import UserError
from fna.models import weights
from fna.models.base import Model
from fna.surgery.blocks import find_tower
from fna.tasks.base import Outcome, Run
from fna.tasks.classification import Classification
from fna.tasks.features import final_norm, outputs_of, run_tower


@dataclass
class ReleasedHead(Classification):
    """``checkpoint``: a file with ``weight`` ``[C, D * (blocks + 1)]`` and ``bias`` ``[C]``; the width says how many blocks.

    A head of 1,000 rows is taken for one of ImageNet's classes in their order.
    """

    checkpoint: str | None = None

    @property
    def needs(self) -> frozenset[str]:
        """Nothing: the head is in the file."""
        return frozenset()

    def check_files(self) -> None:
        """Raise `UserError` where no head was given, or it is not there."""
        if self.checkpoint is None:
            raise UserError("task.checkpoint is needed: the file of a released linear head.")
        if not Path(self.checkpoint).is_file():
            raise UserError(f"task.checkpoint={self.checkpoint}: no such file; give that of a released linear head.")

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for a head that is missing or fits neither the model nor the data."""
        super().check(self._headed(model), dataset)

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """Logits."""
        return super().forward(self._headed(model))

    def prepare(self, model: Model, dataset: Dataset, run: Run) -> str:
        """sha256 of the head's file."""
        assert self.checkpoint is not None
        return hashlib.sha256(Path(self.checkpoint).read_bytes()).hexdigest()

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the data, as `Classification` with this head."""
        return super().evaluate(self._headed(model), dataset, run)

    def _headed(self, model: Model) -> Model:
        """The model with this head in place of its own."""
        if model.classify is not None and getattr(model.classify, "__self__", None) is self:
            return model
        self.check_files()
        assert self.checkpoint is not None
        state = weights.read(self.checkpoint)
        if set(state) != {"weight", "bias"} or state["weight"].shape[0] != state["bias"].shape[0]:
            raise UserError(f"{self.checkpoint}: holds {', '.join(sorted(state)[:4])}, not the weight and bias of a linear head.")
        self._weight, self._bias = (state[name].to(model.device, torch.float32) for name in ("weight", "bias"))
        self._model = model
        rows = len(self._bias)
        ids, names = read_classes(LIST) if rows == 1000 else (None, None)
        with torch.inference_mode():
            blank = torch.zeros(1, 3, *model.image_size, device=model.device, dtype=model.dtype)
            width = class_and_patches(model, blank, 1).shape[1] // 2
        blocks = self._weight.shape[1] // width - 1
        if blocks < 1 or self._weight.shape[1] != width * (blocks + 1):
            raise UserError(
                f"{self.checkpoint}: {self._weight.shape[1]} inputs, {model.name} gives {width} for each block and the patches."
            )
        self._blocks = blocks
        return replace(model, classify=self._logits, class_ids=ids, classes=names)

    def _logits(self, images: Tensor) -> Tensor:
        return class_and_patches(self._model, images, self._blocks) @ self._weight.T + self._bias


def class_and_patches(model: Model, images: Tensor, blocks: int) -> Tensor:
    """``[b, D * (blocks + 1)]``, float32, after the norm: class tokens of the last ``blocks`` blocks, the last one's mean patch."""
    tower = find_tower(model.tower)
    with outputs_of(model, blocks) as kept:
        run_tower(model)(images)
    norm = final_norm(tower.module)
    tokens = [norm(kept[place]).float() for place in range(blocks)]
    return torch.cat([*(part[:, 0] for part in tokens), tokens[-1][:, tower.prefix :].mean(1)], -1)
