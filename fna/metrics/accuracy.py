"""Top-k accuracy from logits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fna.metrics.ranks import worst_rank

Array = np.ndarray


def top_k(logits: Array, labels: Array, ks: Iterable[int]) -> dict[int, Array]:
    """k -> 0 or 1 for each sample ``[n]``: is the label among the k largest of ``logits`` ``[n, C]``? Ties count as misses."""
    own = np.arange(logits.shape[1]) == np.asarray(labels)[:, None]
    ranks = worst_rank(logits, own)
    return {k: (ranks <= k).astype(np.int64) for k in ks}
