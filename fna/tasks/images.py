"""One pass of a model over a dataset's images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fna.data.base import Dataset, Given
from fna.data.files import UNREADABLE
from fna.data.loading import none_read, picture, transformed
from fna.models.base import Model
from fna.tasks.base import Array, Run


@dataclass(frozen=True)
class Seen:
    """``outputs`` float32 ``[n, F]`` of the examples at the indices ``kept``; ``skipped`` names those that could not be read."""

    kept: list[int]
    outputs: Array
    skipped: list[str]


def look(forward: Callable[[Tensor], Tensor], model: Model, dataset: Dataset, run: Run) -> Seen:
    """``forward`` on all images, in batches as ``run`` says; tells ``run.progress`` after each.

    Raises `UserError` where no image can be read or, with ``run.strict``, where one cannot.
    """
    kept: list[int] = []
    skipped: list[str] = []
    outputs: list[Array] = []
    with torch.inference_mode():
        for batch in run.batches(dataset.examples, model.transform, skipped):
            if batch.indices:
                outputs.append(forward(batch.images.to(model.device, model.dtype)).float().cpu().numpy())
                kept += batch.indices
            run.progress(batch.tried)
    return Seen(kept, np.concatenate(outputs), skipped)


def readable(dataset: Dataset, count: int) -> list[Any]:
    """The first ``count`` examples whose image can be read."""
    found: list[Any] = []
    for example in dataset.examples:
        if len(found) == count:
            break
        if not isinstance(example, Given) and not hasattr(example, "image"):
            continue
        with suppress(*UNREADABLE):
            picture(example)
            found.append(example)
    return found


def first_images(model: Model, dataset: Dataset, count: int) -> Tensor:
    """``[count, 3, h, w]`` of the first readable images, repeated where there are fewer. Raises `UserError` where there is none."""
    examples = readable(dataset, count)
    if not examples:
        raise none_read(dataset.examples, dataset.name)
    tensors = [transformed(example, model.transform) for example in examples]
    index = torch.arange(count) % len(tensors)
    return torch.stack(tensors)[index].to(model.device, model.dtype)
