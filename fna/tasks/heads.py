"""The linear head of segmentation: batch norm and a 1x1 convolution on frozen patch features, as DINOv2's protocol has it.

Features are computed once and kept on disk, so training takes seconds and sees no augmentation. Its target is the share of each
class in each patch: where scores are constant within a patch that is the cross-entropy over pixels, at a hundredth of its cost.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fna.data.base import Dataset
from fna.data.layouts import teaches
from fna.data.segmentation import SegmentedDataset
from fna.errors import UserError
from fna.metrics.iou import NAMED
from fna.models.base import Model
from fna.progress import through
from fna.records import file_digest, make_way, only_one, read_record, write_atomic, write_record
from fna.tasks.base import FULL, Array, Run
from fna.tasks.cache import digest_of
from fna.tasks.dense import Inference, Score
from fna.tasks.features import patch_features
from fna.tasks.source import Source
from fna.values import Count, NotNegative, Rate, counted

WARM_UP = 20


@dataclass
class LinearHead:
    """Trained on the training split's features under full attention, or with ``refit`` on those of each variant.

    ``blocks``: 1, or the last 4 side by side. ``steps`` of AdamW over ``batch`` images, ``rate`` falling linearly to 0.
    ``images``: the first so many training images. ``checkpoint``: a trained head's file instead of training.
    """

    blocks: Count = 1
    steps: Count = 300
    batch: Count = 16
    rate: Rate = 0.01
    weight_decay: NotNegative = 1e-4
    images: Count | None = None
    refit: bool = False
    checkpoint: str | None = None
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"encode_image"})
    _fitted: dict[str, tuple[str, nn.Module]] = field(default_factory=dict, repr=False)
    _unseen: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.refit and self.checkpoint is not None:
            raise ValueError("task.head.refit=true trains, task.head.checkpoint does not: give one of them.")

    def check_files(self) -> None:
        """Raise `UserError` for a trained head that is not there."""
        if self.checkpoint is not None and not Path(self.checkpoint).is_file():
            raise UserError(f"task.head.checkpoint={self.checkpoint}: no such file; leave it out to train a head.")

    def check_source(self, source: Any) -> None:
        """Raise `UserError` for a data set that is told of no split to train on, where there is no head either."""
        if self.checkpoint is None and not teaches(source):
            raise UserError(_untaught(source.name, source.split))

    def check(self, model: Model, dataset: SegmentedDataset) -> None:
        """Raise `UserError` where there is nothing to train on and no head, or a head of other classes."""
        if self.checkpoint is not None:
            _load(Path(self.checkpoint), dataset)
        elif dataset.training is None:
            raise UserError(_untaught(dataset.name, dataset.split))

    def notes(self, dataset: SegmentedDataset) -> list[str]:
        """On how many images it was trained, and what these do not show, where it was trained here."""
        if self.checkpoint is not None or dataset.training is None:
            return []
        told = [f"linear head: trained on {counted(len(dataset.training().examples[: self.images]), 'image')}"]
        if self._unseen:
            names = ", ".join(self._unseen[:NAMED]) + ", ..." * (len(self._unseen) > NAMED)
            told.append(f"{told[0]}, in which {len(self._unseen)} of {len(dataset.classes)} classes are labelled nowhere: {names}")
        return told[-1:]

    def features(self, model: Model, images: Tensor) -> Tensor:
        """``[b, D, rows, columns]`` of images as the model wants them."""
        return patch_features(model, images, self.blocks)

    def prepare(self, model: Model, dataset: SegmentedDataset, run: Run, view: Inference, cache: Path) -> str:
        """Have the head for the attention at work, from disk or trained now; returns the digest of what decides it."""
        if self.checkpoint is not None:
            file = Path(self.checkpoint)
            key = hashlib.sha256(file.read_bytes()).hexdigest()[:20]
        else:
            assert dataset.training is not None
            source = Source(model, dataset.training(), self.images, view, run, cache)
            key = digest_of(self._decides(source))
            file = cache / "heads" / f"{key}.safetensors"
        if self._fitted.get(run.variant, ("",))[0] != key:
            if self.checkpoint is None:
                with only_one(file):
                    if not _whole(file):
                        self._train(source, file)
            self._fitted[run.variant] = (key, _load(file, dataset).to(model.device).eval())
            self._unseen = _recipe(file).get("unseen", [])
        return key

    def score(self, model: Model, dataset: SegmentedDataset, run: Run, view: Inference, cache: Path) -> Score:
        """Scores ``[b, C, rows, columns]`` of images, by the head of full attention or, with ``refit``, the variant's own."""
        variant = run.variant if self.refit else FULL
        if variant == run.variant:
            self.prepare(model, dataset, run, view, cache)
        head = self._fitted[variant][1]
        return lambda images: head(self.features(model, images).float())

    def _decides(self, source: Source) -> dict[str, Any]:
        own = {key: value for key, value in vars(self).items() if not key.startswith("_") and key not in ("refit", "checkpoint")}
        return {"head": own, "features": source.decides(self.blocks)}

    def _train(self, source: Source, file: Path) -> None:
        """Fit a head and write it with its recipe and loss curve."""
        features, shares = source.features(self.features, self.blocks), source.shares()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source.run.seed)
            head = _new(features.shape[1], shares.shape[1]).to(source.model.device)
            losses = self._descend(head, features, shares, source.model.device)
        shown = np.asarray(shares.any((0, 2, 3))).tolist()
        unseen = [name for name, seen in zip(source.data.classes, shown, strict=True) if not seen]
        recipe = {"recipe": self._decides(source), "classes": list(source.data.classes), "losses": losses, "unseen": unseen}
        _keep(file, head, recipe)

    def _descend(self, head: nn.Module, features: Array, shares: Array, device: torch.device) -> list[float]:
        optimiser = torch.optim.AdamW(head.parameters(), self.rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / self.steps)
        )
        losses = []
        for _ in through(range(self.steps), "training the head", self.steps):
            picked = np.sort(torch.randperm(len(features))[: self.batch].numpy())
            x = torch.from_numpy(features[picked].astype(np.float32)).to(device)
            target = torch.from_numpy(shares[picked].astype(np.float32)).to(device)
            with torch.enable_grad():
                loss = -(target * head(x).log_softmax(1)).sum() / target.sum().clamp_min(1)
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(round(float(loss.detach()), 4))
        return losses


def _untaught(name: str, split: str) -> str:
    return (
        f"{name} has no training split here: give dataset.train=SPLIT, another than {split}, which is asked about, or "
        "task.head.checkpoint=PATH."
    )


def _keep(file: Path, head: nn.Module, recipe: dict[str, Any]) -> None:
    data = save(head.state_dict(), {"fna": json.dumps(recipe, default=str)})
    make_way(file)
    write_atomic(file, data)
    write_record(file.with_suffix(".json"), {"sha256": hashlib.sha256(data).hexdigest()})


def _whole(file: Path) -> bool:
    """Whether a head that was trained here is there as it was written."""
    kept = read_record(file.with_suffix(".json"))
    return kept is not None and file.is_file() and file_digest(file).hexdigest() == kept["sha256"]


def _new(width: int, classes: int) -> nn.Sequential:
    convolution = nn.Conv2d(width, classes, 1)
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.constant_(convolution.bias, 0.0)  # type: ignore[arg-type]
    return nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(width), conv=convolution))


def _recipe(file: Path) -> dict[str, Any]:
    """What was kept with a head that was trained here; nothing of others."""
    with safe_open(file, "pt") as opened:
        return dict(json.loads((opened.metadata() or {}).get("fna", "{}")))


def _load(file: Path, dataset: Dataset) -> nn.Sequential:
    """A head from its file. Raises `UserError` for another number of classes, or for a file that holds no such head."""
    try:
        state = load_file(file)
        known = _recipe(file).get("classes", [])
        classes, width = state["conv.weight"].shape[:2]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{file}: not a linear head of fna ({error}); remove it or give task.head.checkpoint=PATH.") from error
    if classes != len(dataset.classes) or (known and known != list(dataset.classes)):
        theirs, ours = (f"{len(names)} ({', '.join(names[:3])}, ...)" for names in (known or ["?"] * classes, dataset.classes))
        raise UserError(f"{file}: a head for other classes, {theirs}, than those of {dataset.name}, {ours}.")
    head = _new(width, classes)
    head.load_state_dict(state)
    return head
