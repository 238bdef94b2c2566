"""What a mask has to learn from a few images of the data set before it can be used: where, how much, which neurons.

The images are the first of the data set, without their labels; what was learnt is kept in a file named by model and data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.data.base import Dataset
from fna.data.loading import batches
from fna.masking.growth import detection_block
from fna.masking.rules import log_gap
from fna.masking.strategy import Masking
from fna.models.base import Model
from fna.records import kept
from fna.surgery.probe import Records, recording
from fna.surgery.registers import Registers, find_registers
from fna.tasks.cache import digest_of

IMAGES = 64
BATCH = 4
_FINDING = ("neurons", "detect", "threshold", "highest", "sparse", "calibration")

Mask = Masking | Registers


def calibrated(mask: Mask | None, model: Model, dataset: Dataset, folder: Path | None = None) -> Mask | None:
    """``mask`` with what it lacks learnt on the first images of ``dataset``; unchanged where it lacks nothing.

    A `Masking` without ``detect`` gets the block after the growth (`detection_block`; its own default where nothing grows), one
    whose rule is log_gap its threshold; `Registers` get their neurons. Kept in ``folder``, None: not kept. Raises `UserError` for
    registers in a model without outliers.
    """
    if mask is None or not lacking(mask):
        return mask
    file = None if folder is None else folder / f"{_key(mask, model, dataset)}.json"
    learnt = kept(file, lambda: _learn(mask, model, dataset))
    if "found" in learnt:
        learnt["found"] = {int(layer): neurons for layer, neurons in learnt["found"].items()}
    return replace(mask, **learnt)


def lacking(mask: Mask) -> bool:
    """Whether the mask needs `calibrated` before it can be used as its author means it."""
    if isinstance(mask, Registers):
        return mask.found is None
    return mask.detect is None or (mask.rule == "log_gap" and mask.threshold is None)


def _key(mask: Mask, model: Model, dataset: Dataset) -> str:
    finding = ("rule", "threshold", "detect", "first") if isinstance(mask, Masking) else _FINDING
    asked = {name: str(getattr(mask, name)) for name in finding}  # what is done to the tokens afterwards does not matter
    decides = {"mask": asked, "version": mask.version, "model": model.identity, "data": dataset.digest}
    return digest_of(decides | {"size": model.image_size, "images": min(IMAGES, len(dataset.examples))})


def _learn(mask: Mask, model: Model, dataset: Dataset) -> dict[str, Any]:
    images = _images(model, dataset, mask.calibration if isinstance(mask, Registers) else IMAGES)
    norms = patch_norms(model, images)
    if isinstance(mask, Registers):
        threshold = log_gap(norms[:, mask.detect]) if mask.threshold is None else mask.threshold
        found = find_registers(model.tower, images.split(BATCH), run_images(model), mask, threshold).found
        return {"threshold": threshold, "found": found}
    detect = mask.window(model.depth)[1] if mask.detect is not None else detection_block(norms)
    learnt: dict[str, Any] = {} if detect is None else {"detect": detect}
    if mask.rule == "log_gap" and mask.threshold is None:
        learnt["threshold"] = log_gap(norms[:, replace(mask, **learnt).window(model.depth)[1] - 1])
    return learnt


def run_images(model: Model) -> Callable[[Tensor], Tensor]:
    """Whatever takes images through the tower: ``[B, 3, h, w]`` -> a tensor."""
    run = model.encode_image or model.classify or model.patches
    assert run is not None
    return run


def patch_norms(model: Model, images: Tensor) -> Tensor:
    """Norms of the patches leaving each block ``[n, blocks, P]``, on the CPU."""
    seen: list[Records] = []
    with torch.inference_mode(), recording(model.tower, seen.append, streams=("leaving",)):
        for batch in images.split(BATCH):
            run_images(model)(batch)
    prefix, suffix = model.tokens.prefix, model.tokens.suffix
    norms = torch.cat([records["leaving"] for records in seen]).cpu()
    return norms[..., prefix : norms.shape[-1] - suffix]


def _images(model: Model, dataset: Dataset, count: int) -> Tensor:
    """The first ``count`` readable images ``[n, 3, h, w]``, on the model's device."""
    read = batches(dataset.examples[:count], model.transform, batch_size=BATCH, skipped=[])
    return torch.cat([batch.images for batch in read if batch.indices]).to(model.device, model.dtype)
