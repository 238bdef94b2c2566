"""Top-k accuracy from logits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fna.metrics.ranks import first_rank

Array = np.ndarray


def top_k(logits: Array, labels: Array, ks: Iterable[int]) -> dict[int, Array]:
    """k -> 0 or 1 for each sample ``[n]``: is the label among the k largest of ``logits`` ``[n, C]``?

    Of equal logits the lower class comes first: top-1 is argmax, as everybody publishes it.
    """
    own = np.arange(logits.shape[1]) == np.asarray(labels)[:, None]
    ranks = first_rank(logits, own)
    return {k: (ranks <= k).astype(np.int64) for k in ks}
