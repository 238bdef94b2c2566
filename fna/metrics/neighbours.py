"""Which sample is the nearest to each, among all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray
ROWS = 1024  # compared with all at once
SAME = 1e-6  # cosines nearer than that are equal: by float32's rounding copies of one picture may come first by turns


ONE_NUMBER = "the model gives one number a sample, no choice of a class: agreement is of which other sample's is nearest to it"


def nearest_other(vectors: Array, keys: Sequence[str]) -> Array:
    """The other sample that is nearest by cosine, of single numbers by their difference, int64 ``[n]``: its place among all keys in
    ascending order.

    So that two passes which list ``vectors`` ``[n, F]`` in different orders say the same of the same samples. Of equally near ones
    the first by key; a sample that is alone has itself.
    """
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    vectors = np.asarray(vectors, np.float32)[order]
    single = vectors.shape[1] == 1
    unit = vectors / np.maximum(np.abs(vectors).max() if single else np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = np.empty(len(keys), np.int64)
    for start in range(0, len(keys), ROWS):
        some = unit[start : start + ROWS]
        alike = -np.abs(some - unit.T) if single else some @ unit.T
        rows = np.arange(len(alike))
        alike[rows, start + rows] = -np.inf
        found[order[start : start + ROWS]] = (alike >= alike.max(axis=1, keepdims=True) - SAME).argmax(axis=1)
    return found
