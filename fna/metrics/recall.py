"""Retrieval ranks in both directions, from embeddings, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from fna.metrics.ranks import first_rank
from fna.metrics.words import folded

Array = np.ndarray
BLOCK = 2**24  # similarities held at once (128 MiB and their rounded copy)


def search(queries: Array, items: Array, right: csr_array, *, block: int = BLOCK) -> tuple[Array, Array]:
    """Let each query rank all items by inner product; ``right`` marks, sparse bool ``[n, m]``, what each may find.

    queries ``[n, E]``, items ``[m, E]``. Returns, int64 ``[n]`` each, the rank of the best right item (1 is best) and the index of
    the item ranked first. Items of equal similarity rank in one order for all queries, drawn once and blind to what is right: by
    itself a file's order would keep the captions of an image together, and a collapsed model below chance. Similarities are
    made in float64 and rounded to float32, so that equal pairs tie whatever the order in which a processor's BLAS sums, and so
    that no block changes a rank; ``block`` of them are held at a time.
    """
    order = np.random.default_rng(0).permutation(len(items))
    queries, items, right = np.asarray(queries, np.float64), np.asarray(items, np.float64)[order], right[:, order]
    step = max(1, block // max(len(items), 1))
    ranks, firsts = [], []
    for start in range(0, len(queries), step):
        scores = (queries[start : start + step] @ items.T).astype(np.float32)
        ranks.append(first_rank(scores, right[start : start + step].toarray()))
        firsts.append(order[scores.argmax(axis=1)])
    return np.concatenate(ranks), np.concatenate(firsts)


def alike(texts: Sequence[str], owner: Array, owners: int) -> csr_array:
    """Which owner each text is right for, bool ``[T, owners]``: its own, int ``[T]``, and every other that has an equal text.

    Case and blanks do not count (`fna.metrics.words.folded`).
    """
    texts = [folded(text) for text in texts]
    kinds = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    kind, ones = np.array([kinds[text] for text in texts], np.int64), np.ones(len(texts), np.int32)
    has = csr_array((ones, (kind, owner)), shape=(len(kinds), owners))
    return (csr_array((ones, (np.arange(len(texts)), kind)), shape=(len(texts), len(kinds))) @ has).astype(bool)


def hits_per_group(ranks: Array, group: Array, groups: int, ks: tuple[int, ...]) -> Array:
    """How many queries of each group have rank k or better, for each k: int64 ``[groups, len(ks)]``."""
    return np.stack([np.bincount(group[ranks <= k], minlength=groups) for k in ks], axis=1)
