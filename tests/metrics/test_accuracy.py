"""Top-k accuracy: by hand, and against numpy's argmax and sort."""

from __future__ import annotations

import numpy as np
import pytest

from fna.metrics.accuracy import top_k


def test_by_hand() -> None:
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [np.nan] * 3, [np.nan, 1.0, 0.0]])
    hits = top_k(logits, np.array([0, 1, 0, 1, 0, 1]), (1, 2))
    assert hits[1].tolist() == [1, 0, 1, 0, 0, 0]  # of two equal logits the first is the answer; NaN answers nothing
    assert hits[2].tolist() == [1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("steps", [None, 4])
def test_top_1_is_argmax_and_top_k_a_stable_sort_however_much_ties(steps: int | None) -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 30)), generator.integers(30, size=200)
    logits = logits if steps is None else np.round(logits * steps) / steps  # as half precision makes neighbours equal
    order = np.argsort(-logits, axis=1, kind="stable")
    for k, hits in top_k(logits, labels, (1, 5, 30)).items():
        assert hits.tolist() == [int(label in row[:k]) for label, row in zip(labels, order, strict=True)]
    assert top_k(logits, labels, (1,))[1].tolist() == (logits.argmax(axis=1) == labels).astype(int).tolist()


def test_a_collapsed_model_scores_chance() -> None:
    hits = top_k(np.full((600, 30), 7.0), np.arange(600) % 30, (1, 5))
    assert (hits[1].mean(), hits[5].mean()) == pytest.approx((1 / 30, 5 / 30))
