"""Retrieval ranks: worked by hand, against a slow oracle, ties and NaN, blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fna.metrics.ranks import worst_rank
from fna.metrics.recall import hits_per_group, search


def slow_rank(scores: list[float], own: list[bool]) -> int:
    """Sort the items, best first, on equal scores the wrong ones first; where is the first right one?"""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], own[item]))
    return next((place for place, item in enumerate(order, 1) if own[item]), len(scores) + 1)


def test_by_hand() -> None:
    """Three images, captions 0 and 1 of image 0, 2 of image 1, 3 and 4 of image 2; unit-free embeddings on two axes."""
    images = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    texts = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [1.0, 1.0], [3.0, -1.0]])
    owner = np.array([0, 0, 1, 2, 2])
    # caption 0: images score 1 0 1, a tie with image 2 counts against; 1: 0 2 2; 2: 0 1 1; 3: 1 1 2; 4: 3 -1 2
    ranks, firsts = search(texts, images, owner, np.arange(3))
    assert ranks.tolist() == [2, 3, 2, 1, 2]
    assert firsts.tolist() == [0, 1, 1, 2, 0]
    assert hits_per_group(ranks, owner, 3, (1, 2)).tolist() == [[0, 1], [0, 1], [1, 2]]
    # image 0: captions score 1 0 0 1 3, own best 1, beaten by caption 4 and tied by 3; image 1: 0 2 1 1 -1; image 2: 1 2 1 2 2
    ranks, firsts = search(images, texts, np.arange(3), owner)
    assert ranks.tolist() == [3, 3, 2]
    assert firsts.tolist() == [4, 1, 1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 12), st.integers(1, 40))
def test_against_the_oracle_with_many_ties(seed: int, groups: int, n: int, block: int) -> None:
    generator = np.random.default_rng(seed)
    queries, items = generator.integers(-2, 3, (n, 3)), generator.integers(-2, 3, (n + 3, 3))
    of_query, of_item = generator.integers(groups, size=n), generator.integers(groups, size=n + 3)
    ranks, _ = search(queries, items, of_query, of_item, block=block)
    expected = [
        slow_rank((items @ query).tolist(), (of_item == group).tolist()) for query, group in zip(queries, of_query, strict=True)
    ]
    assert ranks.tolist() == expected


@pytest.mark.parametrize("size", [7, 77, 1003])
def test_collapsed_embeddings_score_nothing(size: int) -> None:
    """All vectors the same, in float32: every similarity must tie exactly, and every tie counts against the model."""
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    same = np.tile(vector / np.linalg.norm(vector), (size, 1))
    ranks, _ = search(same, same, np.arange(size), np.arange(size))
    assert set(ranks.tolist()) == {size}


def test_nan_and_rows_without_an_answer_rank_last() -> None:
    scores = np.array([[np.nan, 1.0, 0.0], [2.0, np.nan, 0.0], [1.0, 2.0, 3.0]])
    own = np.array([[True, False, False], [True, False, False], [False, False, False]])
    assert worst_rank(scores, own).tolist() == [3, 2, 4]


def test_blocks_do_not_change_anything() -> None:
    generator = np.random.default_rng(1)
    queries, items = generator.normal(size=(50, 16)), generator.normal(size=(70, 16))
    groups = np.arange(50), np.arange(70) % 50
    whole = search(queries, items, *groups)
    for block in (1, 71, 1000):
        pieces = search(queries, items, *groups, block=block)
        assert all(np.array_equal(a, b) for a, b in zip(whole, pieces, strict=True))
