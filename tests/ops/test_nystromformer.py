"""Landmarks that are means: segments, k-means, and the method that uses them."""

from __future__ import annotations

import pytest
import torch

from fna.ops.centroids import Centroids, KMeans, SegmentMeans, group_mass, group_means, group_sums
from fna.ops.contract import Site, Tokens
from fna.ops.landmarks import FarthestPoint
from fna.ops.nystrom import FastNystrom
from fna.ops.nystromformer import Nystromformer
from tests.ops.reference import newton_inverse, random_qkv, softmax_attention

SITE = Site(scale=0.3, tokens=Tokens(prefix=0))


def test_segments_by_hand() -> None:
    q, k, v = random_qkv(1, 2, 8, 4)
    groups = SegmentMeans()(q, k, v, SITE, 4, keep=torch.arange(8) < 1)
    assert groups.assignment.tolist() == [[0, 1, 1, 1, 2, 2, 3, 3]]  # floor(3 i / 7) after the first
    assert groups.sizes.tolist() == [[1, 3, 2, 2]]


def test_segments_leave_out_what_is_dropped_row_by_row() -> None:
    q, k, v = random_qkv(2, 2, 8, 4)
    drop = torch.tensor([[0, 0, 1, 0, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0]]).bool()
    groups = SegmentMeans()(q, k, v, SITE, 3, keep=torch.arange(8) < 1, drop=drop)
    assert groups.assignment.tolist() == [[0, 1, -1, 1, 1, -1, 2, 2], [0, -1, -1, -1, -1, -1, -1, 1]]
    assert groups.sizes.tolist() == [[1, 3, 2], [1, 1, 0]]


@pytest.mark.parametrize("sampler", [SegmentMeans(), KMeans()])
@pytest.mark.parametrize("count", [1, 2, 5, 12, 20])
def test_groups_cover_free_tokens_and_kept_ones_stand_alone(sampler: SegmentMeans | KMeans, count: int) -> None:
    q, k, v = random_qkv(3, 2, 12, 4)
    keep = torch.tensor([[0], [5], [11]]) == torch.arange(12)
    drop = torch.rand(3, 12, generator=torch.Generator().manual_seed(7)) > 0.6
    groups = sampler(q, k, v, SITE, count, keep, drop)
    free = ~keep & ~drop
    assert groups.sizes.shape == (3, count)
    assert groups.sizes.sum(1).tolist() == (groups.assignment >= 0).sum(1).tolist()
    assert (groups.assignment[keep] == 0).all()
    assert (groups.sizes[:, 0] == 1).all()
    assert (groups.assignment[drop & ~keep] == -1).all()
    assert (groups.assignment[free] > 0).all() if count > 1 else (groups.assignment[free] == -1).all()


def test_kmeans_finds_separate_clusters() -> None:
    """Four tight clusters in shuffled order: every one becomes a group."""
    generator = torch.Generator().manual_seed(8)
    label = torch.arange(40) % 4
    centres = 50 * torch.eye(4)
    q = (centres[label] + torch.randn(40, 4, generator=generator))[None, None]
    groups = KMeans()(q, q, q, SITE, 4)
    pairs = set(zip(label.tolist(), groups.assignment[0].tolist(), strict=True))
    assert len(pairs) == 4
    assert groups.sizes.tolist() == [[10, 10, 10, 10]]


def test_kmeans_steps_lower_the_spread() -> None:
    q, _, _ = random_qkv(1, 1, 200, 4)

    def spread(steps: int) -> float:
        groups = KMeans(steps=steps)(q, q, q, SITE, 10)
        (means,), _ = group_means(groups, None, q)
        return float((q[0, 0] - means[0, 0][groups.assignment[0]]).square().sum())

    assert spread(5) < spread(1) < spread(0)


def test_group_sums_by_hand() -> None:
    x = torch.arange(12.0).view(1, 2, 3, 2)
    group, weights = torch.tensor([[1, -1, 1]]), torch.tensor([[1.0, 5.0, 3.0]])
    sums = group_sums(x, group, 2, weights)
    assert group_mass(Centroids(group, torch.tensor([[0, 2]])), weights).tolist() == [[0, 4]]
    assert sums[0, :, 1].tolist() == [[12, 16], [36, 40]]
    assert not sums[0, :, 0].any()


def test_golden() -> None:
    """One image and head at a time: means over the segments, the paper's iteration, in float64."""
    q, k, v = random_qkv(2, 2, 13, 4)
    out = Nystromformer(landmarks=5)(q, k, v, Site(scale=0.3))
    segment = [0, *(1 + 4 * i // 12 for i in range(12))]
    member = torch.tensor([[float(s == m) for s in segment] for m in range(5)], dtype=torch.float64)
    mean = member / member.sum(1, keepdim=True)
    for b in range(2):
        for h in range(2):
            queries, keys = mean @ q[b, h], mean @ k[b, h]
            inner = newton_inverse((0.3 * queries @ keys.T).softmax(-1), 6) @ (0.3 * queries @ k[b, h].T).softmax(-1) @ v[b, h]
            torch.testing.assert_close(out[b, h], (0.3 * q[b, h] @ keys.T).softmax(-1) @ inner, atol=1e-10, rtol=0)


@pytest.mark.parametrize("sampler", [SegmentMeans(), KMeans()])
def test_a_group_a_token_and_a_solve_is_softmax_attention(sampler: SegmentMeans | KMeans) -> None:
    q, k, v = random_qkv(2, 2, 12, 8)
    sizes = torch.tensor([1, 3, 2, 1, 4, 1, 1, 2, 1, 1, 5, 1])
    op = Nystromformer(sampler, landmarks=12, inverse="exact")
    torch.testing.assert_close(op(q, k, v, Site(scale=0.3)), softmax_attention(q, k, v, 0.3), atol=1e-9, rtol=0)
    repeated = [t.repeat_interleave(sizes, 2) for t in (k, v)]
    biased = op(q, k, v, Site(scale=0.3, key_bias=sizes.double().log().expand(2, -1)))
    torch.testing.assert_close(biased, softmax_attention(q, *repeated, 0.3), atol=1e-9, rtol=0)


@pytest.mark.parametrize("sampler", [SegmentMeans(), KMeans()])
def test_hidden_tokens_are_as_good_as_absent(sampler: SegmentMeans | KMeans) -> None:
    q, k, v = random_qkv(3, 2, 20, 8)
    keys = torch.rand(3, 20, generator=torch.Generator().manual_seed(5)) > 0.4
    keys[:, 0] = True
    out = Nystromformer(sampler, landmarks=6)(q, k, v, Site(scale=0.3, keys=keys))
    for b in range(3):
        seen = keys[b].nonzero()[:, 0]
        alone = Nystromformer(sampler, landmarks=6)(*(t[b : b + 1, :, seen] for t in (q, k, v)), Site(scale=0.3))
        torch.testing.assert_close(out[b : b + 1, :, seen], alone, atol=1e-5, rtol=0)


def test_each_method_refuses_the_others_samplers() -> None:
    with pytest.raises(ValueError, match=r"Nystromformer cannot use sampler FarthestPoint.*segment_means"):
        Nystromformer(FarthestPoint())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"FastNystrom cannot use sampler SegmentMeans.*fps"):
        FastNystrom(SegmentMeans())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps"):
        KMeans(steps=-1)
