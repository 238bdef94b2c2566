"""Pictures for the page that every task has: images with the landmarks that each variant took, and images whose answer changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fna.data.loading import picture, transformed
from fna.models.base import Model
from fna.surgery.variant import Variant
from fna.tasks.base import Outcome, Task
from fna.tasks.exhibits import SIDE, Sections, Show, denormalised
from fna.tasks.images import readable

NEAREST = "which other image is nearest to it"


def landmarks(show: Show, task: Task, variant: Variant) -> list[dict[str, Any]]:
    """The first images as the model sees them, with the token indices chosen in the first swapped block."""
    examples = readable(show.dataset, show.count)
    model = show.model
    if not examples or model.answer is not None:  # whose images are of any size, and whose passes are conversations
        return []
    images = torch.stack([transformed(example, model.transform) for example in examples])
    chosen = _chosen(model, task, variant, images)
    shown = []
    for row, example in enumerate(examples):
        index = [] if chosen is None else chosen.index[row].tolist()
        if chosen is not None and chosen.valid is not None:
            index = [token for token, valid in zip(index, chosen.valid[row].tolist(), strict=True) if valid]
        image = show.picture(f"{row}", denormalised(images[row]))
        shown.append({"image": image, "key": example.key, "grid": model.tokens.grid, "prefix": model.tokens.prefix, "index": index})
    return shown


def _chosen(model: Model, task: Task, variant: Variant, images: Tensor) -> Any:
    """The first landmarks that a pass drew; None where it draws none, or groups of tokens, which have none to show."""
    memos: list[Any] = []
    with variant.on(model.tower, on_end=memos.append), torch.inference_mode():
        task.forward(model)(images.to(model.device, model.dtype))
    parts = [part for memo in memos for part in (memo, memo.get("masked", {}))]
    drawn = [memo[key][1] for memo in parts for key in memo if key[0] == "landmarks"]
    return next((found for found in drawn if hasattr(found, "index")), None)


def flips(show: Show) -> Sections:
    """Samples whose first choice differs between full and the first variant, the ones that full had right first."""
    full, variant = (one.outcome for one in show.passes[:2])
    if full.decisions.ndim > 1:
        return {"flips": []}
    changed = np.flatnonzero(full.decisions != variant.decisions)
    examples = {example.key: example for example in show.dataset.examples}
    if not examples.keys() >= set(full.keys):  # a loader of the user's own, of which only the first are at hand
        return {"flips": []}
    asked = NEAREST if {*full.labels, *variant.labels} <= examples.keys() else ""
    right = np.array([hit(full, row, examples) for row in range(len(full.keys))])
    changed = changed[np.argsort(~right[changed], kind="stable")]
    found = []
    for number, row in enumerate(changed[: 2 * show.count]):
        key = full.keys[row]
        image = picture(examples[key])
        image.thumbnail((SIDE, SIDE))
        truth, before, after = full.truths[row], full.labels[row], variant.labels[row]
        better = "full" if right[row] else "variant" if hit(variant, row, examples) else "neither"
        found.append(
            {
                "image": show.picture(f"flip{number}", image), "key": key, "asked": asked,
                "truth": truth, "full": before, "variant": after, "better": better,
            }
        )  # fmt: skip
    return {"flips": found}


def hit(outcome: Outcome, row: int, examples: dict[str, Any]) -> bool:
    """Whether the first choice is the class (two may bear one name), or any of the image's captions."""
    if "top1" in outcome.counts:
        return bool(outcome.counts["top1"][row])
    label, example = outcome.labels[row], examples[outcome.keys[row]]
    return label == outcome.truths[row] or label in (*getattr(example, "captions", ()), *getattr(example, "answers", ()))
