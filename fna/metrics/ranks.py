"""Ranks as a stable sort gives them: what recall and top-k accuracy are made of."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def first_rank(scores: Array, own: Array) -> Array:
    """Rank ``[n]`` (1 is best) of the best own item of each row of ``scores`` ``[n, m]``; ``own`` bool ``[n, m]`` marks them.

    Of equal scores the item that comes first is ranked first, as by argmax and a stable argsort. Another's NaN ranks before
    everything and an own one behind, so a broken model scores nothing; so does a row without own items.
    """
    kept = np.where(own & ~np.isnan(scores), scores, -np.inf)
    place = kept.argmax(axis=1)[:, None]
    best = np.take_along_axis(kept, place, axis=1)
    ahead = ~(scores <= best) | ((scores == best) & (np.arange(scores.shape[1]) < place))
    return np.where(best[:, 0] > -np.inf, 1 + (~own & ahead).sum(axis=1), 1 + scores.shape[1])
