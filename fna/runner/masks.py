"""The mask of a run: made ready on a few images, put on top of the variant, and told in the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fna.data.base import Dataset
from fna.masking.guarantee import Guaranteed
from fna.masking.lowrank import LowRank
from fna.masking.strategy import Masking
from fna.models.base import Model
from fna.ops.contract import Attention
from fna.ops.exact import Exact
from fna.runner.plan import Plan
from fna.runner.rows import versions
from fna.surgery.lookahead import masked_blocks, swap_masked
from fna.surgery.swap import Swap
from fna.tasks.calibration import calibrated

FOLDER = "calibration"


def ready(plan: Plan, model: Model, dataset: Dataset) -> Plan:
    """``plan`` with its mask calibrated on the first images of the data set; kept beside the rows."""
    if plan.mask is None:
        return plan
    plan.mask.check(model.depth)
    return replace(plan, mask=calibrated(plan.mask, model, dataset, Path(plan.cfg.rows_dir).parent / FOLDER))


def ops(plan: Plan, layers: tuple[int, ...]) -> Mapping[int, Attention]:
    """The variant's attention in the chosen blocks."""
    if plan.choice is not None:
        return plan.choice.ops(plan.op) or dict.fromkeys(layers, Exact())
    return dict.fromkeys(layers, plan.op)


def swapper(plan: Plan, model: Model, layers: tuple[int, ...], **options: Any) -> Callable[[], AbstractContextManager[Any]]:
    """A context manager, made anew at each call, in which the variant, mask included, serves the model."""
    return lambda: swap_variant(plan, model, layers, **options)


def swap_variant(plan: Plan, model: Model, layers: tuple[int, ...], **options: Any) -> Swap:
    """The variant in force on the model; ``options`` are those of `swap_tower`."""
    return swap_masked(model.tower, ops(plan, layers), plan.mask, **options)


def decides(plan: Plan) -> Any:
    """What of the mask decides a row: every field, calibrated ones included."""
    return None if plan.mask is None else [repr(replace(plan.mask, unmasked=False)), *versions(plan.mask)]


def facts(plan: Plan, model: Model) -> dict[str, Any]:
    """What ``result.json`` says of the mask beyond its name; nothing where there is none."""
    told = {}
    if isinstance(plan.op, LowRank):
        told["pieces"] = "by category" if plan.op.partition else "CLS and patches"
    if isinstance(sampler := getattr(plan.op, "sampler", None), Guaranteed):
        told["guarantee"] = f"CLS {sampler.cls}, massive {sampler.massive}, artifact {sampler.artifact}"
    if not isinstance(plan.mask, Masking):
        return told
    blocks = masked_blocks(plan.mask.blocks, model.depth)
    first, detect = plan.mask.window(model.depth)
    return told | {"mask_start": min(blocks, default=None), "mask_blocks": list(blocks), "mask_detect": detect, "mask_first": first}
