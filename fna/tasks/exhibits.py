"""What a task shows of a run beside its numbers: pictures, sections of the page, files of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from fna.data.base import Dataset
from fna.models.base import Model
from fna.records import json_bytes
from fna.tasks.base import Outcome, Run, Task

SIDE = 256  # of a picture on the page
Sections = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Pass:
    """What one variant scored, how to run it once more (``run``), and the context in which it is in force on the model."""

    label: str
    outcome: Outcome
    run: Run
    on: Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Show:
    """Where and of what exhibits are made: ``passes`` on the same samples, the untouched model's first; ``count`` images at most.

    ``write(name, content)`` puts a file into the run's folder, whole or not at all.
    """

    model: Model
    dataset: Dataset
    passes: Sequence[Pass]
    count: int
    write: Callable[[str, bytes], None]

    def picture(self, name: str, picture: Image.Image) -> str:
        """Write ``pictures/NAME.png``; returns that path, as a section's entry names it."""
        path = str(Path("pictures") / f"{name}.png")
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        self.write(path, buffer.getvalue())
        return path

    def table(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        self.write(name, json_bytes(content))


@runtime_checkable
class Exhibitor(Protocol):
    """A task with something to show."""

    def exhibits(self, show: Show) -> Sections:
        """Make the pictures and files; returns sections of the page, a name and its entries each.

        The page knows "segments" and "tokens". Any other section becomes one of its own: entries with an "image" (a path from
        `Show.picture`), a "text", or both.
        """


def exhibits(task: Task, show: Show) -> Sections:
    """What ``task`` shows; nothing where it has nothing to."""
    return task.exhibits(show) if isinstance(task, Exhibitor) else {}


def denormalised(image: Tensor) -> Image.Image:
    """A transformed image ``[3, h, w]`` as a picture, stretched to its own range (mean and deviation are not needed)."""
    low, high = image.amin(), image.amax()
    pixels = ((image - low) / (high - low).clamp_min(1e-6) * 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((SIDE, SIDE * image.shape[1] // image.shape[2]))
