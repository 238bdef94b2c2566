"""Stage 5, comparisons: every contender against full, every pair of them, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from fna.metrics.compare import Comparison, Metrics, Paired
from fna.runner.outcomes import Scored
from fna.runner.settled import Contender


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


def compare_all(
    full: Scored, scored: Sequence[Scored], metrics: Metrics, *, draws: int, seed: int
) -> tuple[list[Comparison], list[Pair]]:
    """Each of ``scored`` against ``full``, then each against each; all with the same bootstrap draws.

    Raises `UserError` where they do not hold the same samples.
    """
    paired = Paired([full.outcome, *(one.outcome for one in scored)], metrics, draws=draws, seed=seed)
    pairs = [
        Pair(scored[a].variant.label, scored[b].variant.label, paired.pair(a + 1, b + 1))
        for a, b in combinations(range(len(scored)), 2)
    ]
    return [paired.pair(0, place) for place in range(1, len(scored) + 1)], pairs
