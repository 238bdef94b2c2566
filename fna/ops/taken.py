"""Whether a mask took away any token at all, counted over a pass without waiting for the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_counts: ContextVar[list[Tensor] | None] = ContextVar("counts", default=None)
NOTHING = (
    "its rule found no token in any image: nothing was masked (FNA's figures may still change, for landmarks are drawn anew where "
    "a mask begins)"
)


@contextmanager
def told_if_nothing(label: str) -> Iterator[None]:
    """Warn, once the pass inside is over, where tokens were to be taken away and none was; ``label``: of the variant."""
    counts: list[Tensor] = []
    before = _counts.set(counts)
    try:
        yield
    finally:
        _counts.reset(before)
    if counts and not int(counts[0]):
        warnings.warn(f"{label}: mask: {NOTHING}", stacklevel=1)


def tally(chosen: Tensor) -> None:
    """Add the tokens bool ``[B, N]`` that a masked block takes away to those of the pass, where it is counted."""
    counts = _counts.get()
    if counts is not None:
        counts[:] = [chosen.sum() + sum(counts)]
