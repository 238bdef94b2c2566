"""Top-k accuracy: by hand, and against numpy's sort."""

from __future__ import annotations

import numpy as np

from fna.metrics.accuracy import top_k


def test_by_hand() -> None:
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 0.0], [np.nan] * 3])
    hits = top_k(logits, np.array([0, 1, 0, 0]), (1, 2))
    assert hits[1].tolist() == [1, 0, 0, 0]  # the third is tied with class 1: a miss
    assert hits[2].tolist() == [1, 0, 1, 0]


def test_against_a_sort_where_nothing_ties() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 30)), generator.integers(30, size=200)
    order = np.argsort(-logits, axis=1)
    for k, hits in top_k(logits, labels, (1, 5, 30)).items():
        assert hits.tolist() == [int(label in row[:k]) for label, row in zip(labels, order, strict=True)]
