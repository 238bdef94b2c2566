"""Ranks with ties counted against the model: what recall and top-k accuracy are made of."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def worst_rank(scores: Array, own: Array) -> Array:
    """Rank ``[n]`` (1 is best) of the best own item of each row of ``scores`` ``[n, m]``; ``own`` bool ``[n, m]`` marks them.

    1 + how many items that are not own score no less than the best own one: equal scores count against the model, and so does
    NaN, so a collapsed or broken model scores nothing. A row without own items ranks behind everything.
    """
    best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + (~own & ~(scores < best)).sum(axis=1)
