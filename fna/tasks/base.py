"""What a task is: per-sample counts, and metrics that are functions of their sums.

Every metric of fna is a function of sums over samples (hits and captions, correct and seen, intersections and unions), so a task
returns counts with one row a sample, and `Task.metrics` maps their sums to percent. A bootstrap is then one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from fna.data.base import Dataset
from fna.data.loading import Batch, Kept, Transform, batches
from fna.data.reading import Reading
from fna.models.base import Model

Array = np.ndarray
Progress = Callable[[int], None]
Told = Callable[[], None]  # called after every token that is written
FULL = "full"


@dataclass
class Outcome:
    """What one pass over the data gave.

    ``keys``: sample names, length n. ``counts``: name -> ``[n, ...]``, what each sample adds to the sums. ``outputs`` float32
    ``[n, F]``: logits or embeddings, compared between variants as relative error. ``decisions`` int64 ``[n]``: the class or item
    chosen first (a sample: by its place among the sorted keys), compared as agreement; ``[n, P]`` where a sample has many (a
    lattice of pixels). ``labels`` ``[n]``: the decision in words, for the page, with ``truths`` beside it. ``skipped``: samples
    that could not be read.
    """

    keys: list[str]
    counts: dict[str, Array]
    outputs: Array
    decisions: Array
    labels: list[str]
    truths: list[str]
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """How to run: what a task needs beside model and data.

    ``progress(n)`` is told how many samples have just been done; ``strict`` turns an unreadable image into an error.
    ``variant``: a digest of what is swapped in, "full" for the untouched model; what a task keeps of a variant is kept under it.
    ``change``: the same of what is done to the model alone, whatever the task then makes of what it says.
    ``kept``: the images that earlier passes have read and prepared. ``reading``: how others are read, and what that took.
    ``sharing``: a context in which blocks that no variant of this run changes are computed once for all of them; only for forward
    passes of which nothing but the model's output is looked at.
    """

    batch_size: int
    seed: int = 0
    strict: bool = False
    progress: Progress = lambda n: None
    variant: str = FULL
    change: str = FULL
    kept: Kept | None = None
    reading: Reading = field(default_factory=Reading)
    sharing: Callable[[], AbstractContextManager[Any]] = nullcontext

    def batches(
        self, examples: Sequence[Any], transform: Transform, skipped: list[str], batch_size: int | None = None
    ) -> Iterator[Batch]:
        """`fna.data.loading.batches` as this run wants them."""
        read = batches if self.kept is None else self.kept.batches
        size = self.batch_size if batch_size is None else batch_size
        return read(examples, transform, batch_size=size, skipped=skipped, strict=self.strict, reading=self.reading)


class Task(Protocol):
    """What ``conf/task/*.yaml`` instantiates. ``version`` is raised when its numbers change and is part of every row's key."""

    version: int

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` where this model or dataset cannot serve this task."""

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """What this task runs on a batch of images ``[B, 3, h, w]``: what is timed, counted and drawn."""

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome: ...

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """Named metrics in percent from sums of counts; leading axes (bootstrap draws) are kept."""


@runtime_checkable
class Writing(Protocol):
    """A task whose forward has the model write, so that what is timed has a first token and further ones."""

    def write(self, model: Model, given: Tensor, told: Told) -> Tensor:
        """What `Task.forward` does with ``given``; ``told`` is called after each token."""


@runtime_checkable
class Prepared(Protocol):
    """A task that makes something of the untouched model before any variant runs: a trained head, a bank of features."""

    def prepare(self, model: Model, dataset: Dataset, run: Run) -> str:
        """Make it, or find it on disk; returns the digest of what decides it, which becomes part of every row's key."""


@runtime_checkable
class FromFiles(Protocol):
    """A task that reads files of its own."""

    def check_files(self) -> None:
        """Raise `UserError` for one that is not there, before any weights are loaded."""


@runtime_checkable
class Learning(Protocol):
    """A task that learns from other images than those asked about."""

    def check_source(self, source: Any) -> None:
        """Raise `UserError` for the source of a data set that has none to learn from, before any weights are loaded."""


@runtime_checkable
class Noting(Protocol):
    """A task that sees in an outcome what a reader of the figures has to know."""

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]: ...


def notes(task: Task, outcome: Outcome, dataset: Dataset) -> list[str]:
    """What ``task`` notes of the untouched model's outcome."""
    return task.notes(outcome, dataset) if isinstance(task, Noting) else []


def prepared(task: Task, model: Model, dataset: Dataset, run: Run) -> dict[str, str]:
    """What a `Prepared` task adds to every row's key; nothing for others."""
    return {"prepared": task.prepare(model, dataset, run)} if isinstance(task, Prepared) else {}
