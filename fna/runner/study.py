"""The study of ``task=tokens`` in a run folder: ``tokens.json`` and images with their tokens marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fna.data.base import Dataset
from fna.masking.sinks import ARTIFACT, MASSIVE, categories
from fna.models.base import Model
from fna.runner import gallery
from fna.runner.files import json_bytes, write_atomic
from fna.runner.plan import Plan
from fna.tasks.study import record, study
from fna.tasks.tokens import Tokens

FILE = "tokens.json"


def draw(folder: Path, plan: Plan, task: Tokens, model: Model, dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    """Study the untouched model on the first images; returns the gallery section "tokens", one entry an image."""
    if task.study < 1:
        return {}
    seek = task.seeking(model, dataset)
    images = gallery.batch(model, dataset, min(task.study, len(dataset.examples)))
    numbers = study(model, images, seek, tuple(task.ranks))
    write_atomic(folder / FILE, json_bytes(numbers))
    return {"tokens": _marked(folder, plan, model, dataset, images[: plan.cfg.gallery], seek)}


def _marked(folder: Path, plan: Plan, model: Model, dataset: Dataset, images: torch.Tensor, seek: Any) -> list[dict[str, Any]]:
    seen = record(model, images, seek=seek)
    kind = categories(seen["massive"], seen["sinks"], model.tokens)
    shown = []
    for row, example in enumerate(gallery.readable(dataset, len(images))):
        name = f"pictures/tokens{row}.png"
        gallery.save(folder / name, gallery.denormalised(images[row].float().cpu()))
        marks = {
            key: (kind[row] == number).nonzero()[:, 0].tolist() for key, number in (("massive", MASSIVE), ("artifact", ARTIFACT))
        }
        shown.append({"image": name, "key": example.key, "grid": model.tokens.grid, "prefix": model.tokens.prefix, **marks})
    return shown
