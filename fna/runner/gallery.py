"""Pictures for the page: a few images with the landmarks that the variant took, and images whose answer changed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fna.data.base import Dataset
from fna.data.files import UNREADABLE
from fna.data.loading import open_image
from fna.models.base import Model
from fna.runner.files import json_bytes, write_atomic
from fna.runner.masks import swap_variant
from fna.runner.plan import Plan
from fna.tasks.base import Outcome

SIDE = 256


def readable(dataset: Dataset, count: int) -> list[Any]:
    """The first ``count`` examples whose image can be read."""
    found: list[Any] = []
    for example in dataset.examples:
        if len(found) == count:
            break
        with suppress(*UNREADABLE):
            open_image(example.image)
            found.append(example)
    return found


def batch(model: Model, dataset: Dataset, count: int) -> Tensor:
    """``[count, 3, h, w]`` of the first readable images, repeated where there are fewer."""
    examples = readable(dataset, count)
    tensors = [model.transform(open_image(example.image)) for example in examples]
    index = torch.arange(count) % len(tensors)
    return torch.stack(tensors)[index].to(model.device, model.dtype)


def write(
    folder: Path,
    plan: Plan,
    model: Model,
    dataset: Dataset,
    outcomes: tuple[Outcome, Outcome],
    layers: tuple[int, ...],
    further: Mapping[str, list[dict[str, Any]]],
) -> None:
    """Write ``gallery.json`` and ``pictures/`` into the run folder; ``further`` sections are there already."""
    landmarks = _landmarks(folder, plan, model, dataset, layers)
    flips = _flips(folder, dataset, *outcomes, plan.cfg.gallery) if outcomes[0].decisions.ndim == 1 else []
    write_atomic(folder / "gallery.json", json_bytes({"landmarks": landmarks, "flips": flips, **further}))


def _landmarks(folder: Path, plan: Plan, model: Model, dataset: Dataset, layers: tuple[int, ...]) -> list[dict[str, Any]]:
    """The first images as the model sees them, with the token indices chosen in the first swapped block."""
    examples = readable(dataset, plan.cfg.gallery)
    if not examples:
        return []
    images = torch.stack([model.transform(open_image(example.image)) for example in examples])
    chosen: list[Any] = []
    handle = swap_variant(plan, model, layers, on_end=chosen.append)
    with handle, torch.inference_mode():
        plan.task.forward(model)(images.to(model.device, model.dtype))
    memos = [part for memo in chosen for part in (memo, memo.get("masked", {}))]
    drawn = [memo[key][1] for memo in memos for key in memo if key[0] == "landmarks"]
    landmarks = next((found for found in drawn if hasattr(found, "index")), None)  # groups of tokens have none to show
    shown = []
    for row, example in enumerate(examples):
        name = f"pictures/{row}.png"
        save(folder / name, denormalised(images[row]))
        index = [] if landmarks is None else landmarks.index[row].tolist()
        if landmarks is not None and landmarks.valid is not None:
            index = [token for token, valid in zip(index, landmarks.valid[row].tolist(), strict=True) if valid]
        shown.append({"image": name, "key": example.key, "grid": model.tokens.grid, "prefix": model.tokens.prefix, "index": index})
    return shown


def denormalised(image: Tensor) -> Image.Image:
    """The transformed image as a picture, stretched to its own range (the model's mean and deviation are not needed)."""
    low, high = image.amin(), image.amax()
    pixels = ((image - low) / (high - low).clamp_min(1e-6) * 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((SIDE, SIDE * image.shape[1] // image.shape[2]))


def _flips(folder: Path, dataset: Dataset, full: Outcome, variant: Outcome, count: int) -> list[dict[str, Any]]:
    """Samples whose first choice differs between full and variant, the ones that full had right first."""
    changed = np.flatnonzero(full.decisions != variant.decisions)
    examples = {example.key: example for example in dataset.examples}
    right = np.array([_right(full, row, examples) for row in range(len(full.keys))])
    changed = changed[np.argsort(~right[changed], kind="stable")]
    flips = []
    for number, row in enumerate(changed[: 2 * count]):
        name, key = f"pictures/flip{number}.png", full.keys[row]
        picture = open_image(examples[key].image)
        picture.thumbnail((SIDE, SIDE))
        save(folder / name, picture)
        truth, before, after = full.truths[row], full.labels[row], variant.labels[row]
        better = "full" if right[row] else "variant" if _right(variant, row, examples) else "neither"
        flips.append({"image": name, "key": key, "truth": truth, "full": before, "variant": after, "better": better})
    return flips


def _right(outcome: Outcome, row: int, examples: dict[str, Any]) -> bool:
    """Whether the first choice is the class (two may bear one name), or any of the image's captions."""
    if "top1" in outcome.counts:
        return bool(outcome.counts["top1"][row])
    label = outcome.labels[row]
    return label == outcome.truths[row] or label in getattr(examples[outcome.keys[row]], "captions", ())


def save(path: Path, picture: Image.Image) -> None:
    """Write a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())
