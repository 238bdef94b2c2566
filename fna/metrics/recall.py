"""Retrieval ranks in both directions, from embeddings, in bounded memory."""

from __future__ import annotations

import numpy as np

from fna.metrics.ranks import worst_rank

Array = np.ndarray
BLOCK = 2**24  # similarities held at once (128 MiB and their rounded copy)


def search(queries: Array, items: Array, query_group: Array, item_group: Array, *, block: int = BLOCK) -> tuple[Array, Array]:
    """Let each query rank all items by inner product; those of its own group are the right answers.

    queries ``[n, E]``, items ``[m, E]``, groups int ``[n]`` and ``[m]``. Returns, int64 ``[n]`` each, the rank of the best right
    item (1 is best, ties and NaN count against it) and the index of the item ranked first. Similarities are made in float64 and
    rounded to float32, so that equal pairs tie whatever the order in which a processor's BLAS sums, and so that no block changes
    a rank; ``block`` of them are held at a time.
    """
    queries, items = np.asarray(queries, np.float64), np.asarray(items, np.float64)
    step = max(1, block // max(len(items), 1))
    ranks, firsts = [], []
    for start in range(0, len(queries), step):
        scores = (queries[start : start + step] @ items.T).astype(np.float32)
        ranks.append(worst_rank(scores, query_group[start : start + step, None] == item_group))
        firsts.append(scores.argmax(axis=1))
    return np.concatenate(ranks), np.concatenate(firsts)


def hits_per_group(ranks: Array, group: Array, groups: int, ks: tuple[int, ...]) -> Array:
    """How many queries of each group have rank k or better, for each k: int64 ``[groups, len(ks)]``."""
    return np.stack([np.bincount(group[ranks <= k], minlength=groups) for k in ks], axis=1)
