"""Stage 5, comparisons: every contender against full, every pair of them, and what each costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from fna.metrics.compare import Comparison, Metrics, Paired, checked
from fna.runner.outcomes import Scored
from fna.runner.settled import Contender
from fna.tasks.base import Array

TOP = 5  # the larger k of top-k accuracies


@dataclass(frozen=True)
class Ran:
    """A contender with its row."""

    contender: Contender
    scored: Scored

    @property
    def label(self) -> str:
        """What it is called beside the others."""
        return self.contender.label


@dataclass(frozen=True)
class Compared:
    """A contender with its row, its comparison with full, and its cost (empty where none was measured)."""

    contender: Contender
    scored: Scored
    comparison: Comparison
    cost: dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """How the contender ``b`` differs from ``a``, by their labels."""

    a: str
    b: str
    comparison: Comparison


class Versus:
    """The outcomes of full and of every contender, resampled together: any two compare with the same bootstrap draws."""

    def __init__(
        self, full: Scored, ran: Sequence[Ran], metrics: Metrics, *, draws: int, seed: int, errors: Collection[str] = ()
    ) -> None:
        """``errors``: metrics of which less is better. Raises `UserError` where they do not hold the same samples."""
        self.place = {one.label: place for place, one in enumerate(ran, 1)}
        metrics = _uncertain(metrics, full.outcome.outputs.shape[1])
        outcomes = [full.outcome, *(one.scored.outcome for one in ran)]
        self.paired = Paired(outcomes, metrics, draws=draws, seed=seed, errors=errors)

    def full(self, one: Ran) -> Comparison:
        """A contender against full. Raises `UserError` that names the figures which are no number."""
        return checked(self.paired.pair(0, self.place[one.label]))

    def pairs(self, ran: Sequence[Ran]) -> list[Pair]:
        """Each of ``ran`` against each, all of which compare with full. An error relative to outputs of zeros is no number."""
        labels = [one.label for one in ran]
        return [Pair(a, b, self.paired.pair(self.place[a], self.place[b])) for a, b in combinations(labels, 2)]


def _uncertain(metrics: Metrics, classes: int) -> Metrics:
    """``metrics`` without a top-k among no more than k ``classes`` beside top-1: it is 100 % whatever the model says."""

    def told(sums: Mapping[str, Array]) -> dict[str, Array]:
        found = dict(metrics(sums))
        return found if "top1" not in found or classes > TOP else {key: value for key, value in found.items() if key != f"top{TOP}"}

    return told
