"""Retrieval ranks: worked by hand, against a slow oracle, equal captions, collapsed models, NaN, blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from fna.metrics.ranks import first_rank
from fna.metrics.recall import alike, hits_per_group, search


def of_groups(queries: np.ndarray, items: np.ndarray) -> csr_array:
    return csr_array(queries[:, None] == items)


def slow_rank(scores: list[float], own: list[bool]) -> int:
    """Sort the items, best first, as Python does it: stably. Where is the first right one?"""
    order = sorted(range(len(scores)), key=lambda item: -scores[item])
    return next((place for place, item in enumerate(order, 1) if own[item]), len(scores) + 1)


def test_by_hand() -> None:
    """Three images, captions 0 and 1 of image 0, 2 of image 1, 3 and 4 of image 2; unit-free embeddings on two axes."""
    images = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    texts = np.array([[1.0, -1.0], [0.0, 2.0], [-1.0, 3.0], [1.0, 1.0], [3.0, -2.0]])
    owner = np.array([0, 0, 1, 2, 2])
    right = of_groups(owner, np.arange(3))
    # caption 0: images score 1 -1 0; 1: 0 2 4; 2: -1 3 4; 3: 1 1 4; 4: 3 -2 2
    ranks, firsts = search(texts, images, right)
    assert ranks.tolist() == [1, 3, 2, 1, 2]
    assert firsts.tolist() == [0, 2, 2, 2, 0]
    assert hits_per_group(ranks, owner, 3, (1, 2)).tolist() == [[1, 1], [0, 1], [1, 2]]
    # image 0: captions score 1 0 -1 1 3, own best 1, beaten by caption 4 and level with 3; image 1: -1 2 3 1 -2; image 2: 0 4 4 4 2
    ranks, firsts = search(images, texts, right.T.tocsr())
    assert ranks[0] in (2, 3)
    assert ranks[1] == 1
    assert ranks[2] in (1, 2, 3)
    assert firsts[:2].tolist() == [4, 2]


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 12))
def test_ranks_are_those_of_a_stable_sort_with_many_ties(seed: int, groups: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(-2, 3, (n, n + 3)).astype(np.float32)
    own = generator.integers(groups, size=n)[:, None] == generator.integers(groups, size=n + 3)
    expected = [slow_rank(row, mine) for row, mine in zip(scores.tolist(), own.tolist(), strict=True)]
    assert first_rank(scores, own).tolist() == expected


def test_the_first_item_is_argmax_and_right_exactly_where_the_rank_is_1() -> None:
    generator = np.random.default_rng(3)
    queries, items = generator.normal(size=(60, 8)), generator.normal(size=(90, 8))
    own = generator.integers(9, size=60)[:, None] == generator.integers(9, size=90)
    ranks, firsts = search(queries, items, csr_array(own))
    assert firsts.tolist() == (queries @ items.T).argmax(axis=1).tolist()
    assert (ranks == 1).tolist() == own[np.arange(60), firsts].tolist()
    order = np.argsort(-(queries @ items.T), axis=1)
    assert ranks.tolist() == [int(np.flatnonzero(mine[row])[0]) + 1 for mine, row in zip(own, order, strict=True)]


@pytest.mark.parametrize("size", [100, 1003])
@pytest.mark.parametrize("each", [1, 5])
def test_collapsed_embeddings_score_chance(size: int, each: int) -> None:
    """All vectors the same: R@k is k in n for captions that seek, and about k in n for images, whose captions lie side by side."""
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    same = np.tile(vector / np.linalg.norm(vector), (size * each, 1))
    right = of_groups(np.repeat(np.arange(size), each), np.arange(size))
    found, _ = search(same, same[:size], right)
    sought, _ = search(same[:size], same, right.T.tocsr())
    for k in (1, 5, 10):
        assert (found <= k).mean() == pytest.approx(k / size)
        assert 0.7 * k / size <= (sought <= k).mean() <= k / size


def test_a_caption_that_equals_ones_own_is_as_right() -> None:
    """Images 0 and 1 are both "a dog", image 1 also "a pup": "a dog" may find either, "a pup" image 1 alone."""
    right = alike(["a dog", "a cat", "a dog", "a pup"], np.array([0, 2, 1, 1]), 3)
    assert right.toarray().tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0]]
    images = np.eye(3)
    texts = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.5, 0.0]])
    assert search(texts, images, right)[0].tolist() == [1, 1, 1, 2]
    assert search(images, texts, right.T.tocsr())[0].tolist() == [2, 1, 1]


def test_nan_and_rows_without_an_answer_rank_last() -> None:
    scores = np.array([[np.nan, 1.0, 0.0], [2.0, np.nan, 0.0], [1.0, 2.0, 3.0], [np.nan] * 3])
    own = np.array([[True, False, False], [True, False, False], [False, False, False], [True, True, False]])
    assert first_rank(scores, own).tolist() == [4, 2, 4, 4]


def test_blocks_do_not_change_anything() -> None:
    generator = np.random.default_rng(1)
    queries, items = generator.normal(size=(50, 16)), generator.normal(size=(70, 16))
    right = of_groups(np.arange(50), np.arange(70) % 50)
    whole = search(queries, items, right)
    for block in (1, 71, 1000):
        pieces = search(queries, items, right, block=block)
        assert all(np.array_equal(a, b) for a, b in zip(whole, pieces, strict=True))
