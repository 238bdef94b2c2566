"""One pass of a model over a dataset's images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fna.data.base import Dataset
from fna.data.loading import batches
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
    reader = batches(
        dataset.examples, model.transform, batch_size=run.batch_size, skipped=skipped, workers=run.workers, strict=run.strict
    )
    with torch.inference_mode():
        for batch in reader:
            if batch.indices:
                outputs.append(forward(batch.images.to(model.device, model.dtype)).float().cpu().numpy())
                kept += batch.indices
            run.progress(batch.tried)
    return Seen(kept, np.concatenate(outputs), skipped)
