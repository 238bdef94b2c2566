"""FNA+: what the formula says, its limits, and what each of its parts promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fna.ops.centroids import Centroids, KMeans
from fna.ops.contract import Site, Tokens
from fna.ops.landmarks import SKETCH, features_of
from fna.ops.nystrom import fast_nystrom
from fna.ops.plus import ClusterNystrom
from tests.ops.reference import random_qkv, softmax_attention

GROUPS = torch.tensor([[0, 1, 2, 1, 3, 3, 2, 1, 4, 4, 2, 3, 1]])


class Given:
    """A sampler that sorts every image as it is told."""

    gives = Centroids

    def __init__(self, groups: Tensor) -> None:
        self.groups = groups

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep=None, drop=None) -> Centroids:
        member = self.groups[:, None, :] == torch.arange(count)[:, None]
        return Centroids(self.groups.expand(len(q), -1), member.sum(-1).expand(len(q), -1))


def plus(groups: Tensor, **options) -> ClusterNystrom:
    return ClusterNystrom(Given(groups), Given(groups), landmarks=int(groups.max()) + 1, **options)


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("prior", [True, False])
def test_golden(sizes: bool, prior: bool) -> None:
    """The four lines of the formula, one image and head at a time, in float64."""
    q, k, v = random_qkv(2, 2, 13, 4)
    out = plus(GROUPS, sizes=sizes, prior=prior, ridge=1e-2)(q, k, v, Site(scale=0.3, tokens=Tokens(prefix=1)))
    member = torch.stack([(GROUPS[0] == m).double() for m in range(5)])
    count = member.sum(1)
    for b in range(2):
        for h in range(2):
            qm, km, vm = ((member @ x[b, h]) / count[:, None] for x in (q, k, v))
            bias = count.log() if sizes else torch.zeros(5, dtype=torch.float64)
            start = vm if prior else torch.zeros_like(vm)
            a = (0.3 * qm @ km.T + bias).softmax(-1)
            u = (0.3 * qm @ k[b, h].T).softmax(-1) @ v[b, h]
            w = start + torch.linalg.solve(a.T @ a + 1e-2 * a.sum(0).max() * torch.eye(5, dtype=a.dtype), a.T @ (u - a @ start))
            expected = (0.3 * q[b, h] @ km.T + bias).softmax(-1) @ w
            expected[0] = u[0]
            torch.testing.assert_close(out[b, h], expected, atol=1e-9, rtol=0)


def test_a_group_a_token_and_a_solve_is_softmax_attention() -> None:
    q, k, v = random_qkv(2, 2, 12, 8)
    out = ClusterNystrom(KMeans(), KMeans(), landmarks=12, inverse="exact")(q, k, v, Site(scale=0.3))
    torch.testing.assert_close(out, softmax_attention(q, k, v, 0.3), atol=1e-9, rtol=0)


def test_single_tokens_without_sizes_and_prior_are_fast_nystrom() -> None:
    q, k, v = random_qkv(1, 2, 13, 8)
    groups = torch.full((1, 13), -1)
    groups[0, [2, 5, 11]] = torch.arange(3)
    out = plus(groups, sizes=False, prior=False, inverse="newton")(q, k, v, Site(scale=0.3))
    torch.testing.assert_close(out, fast_nystrom(q, k, v, torch.tensor([[2, 5, 11]]), scale=0.3), atol=1e-12, rtol=0)


def test_identical_tokens_in_a_group_are_answered_exactly() -> None:
    """Where all members of a group are one token many times over, log n and the mean value leave nothing to approximate."""
    q, k, v = (x[:, :, GROUPS[0]] for x in random_qkv(2, 2, 5, 8))
    out = plus(GROUPS)(q, k, v, Site(scale=0.3))
    torch.testing.assert_close(out, softmax_attention(q, k, v, 0.3), atol=1e-9, rtol=0)


def test_constant_values_are_kept_to_the_last_digit() -> None:
    """Weights sum to one with any inverse, since the correction of a constant is nothing; FNA's do not."""
    q, k, _ = random_qkv(2, 2, 40, 8)
    v = torch.full_like(q, 3.0)
    out = ClusterNystrom(KMeans(), KMeans(), landmarks=6)(4 * q, 4 * k, v, Site(scale=0.3))
    torch.testing.assert_close(out, v, atol=1e-12, rtol=0)


def test_the_rows_of_prefix_tokens_are_exact() -> None:
    q, k, v = random_qkv(2, 2, 40, 8)
    site = Site(scale=0.3, tokens=Tokens(prefix=2))
    exact = softmax_attention(q, k, v, 0.3)
    out = ClusterNystrom(landmarks=6)(q, k, v, site)
    torch.testing.assert_close(out[:, :, :2], exact[:, :, :2], atol=1e-12, rtol=0)
    assert (out[:, :, 2:] - exact[:, :, 2:]).abs().max() > 1e-3
    without = ClusterNystrom(landmarks=6, exact_prefix=False)(q, k, v, site)
    assert (without[:, :, :2] - exact[:, :, :2]).abs().max() > 1e-6
    torch.testing.assert_close(without[:, :, 2:], out[:, :, 2:])


def test_a_prefix_token_that_shares_its_group_is_not_taken_for_its_mean() -> None:
    q, k, v = random_qkv(1, 2, 13, 8)
    shared = GROUPS.clone()
    shared[0, 1] = 0
    site = Site(scale=0.3, tokens=Tokens(prefix=1))
    torch.testing.assert_close(plus(shared)(q, k, v, site), plus(shared, exact_prefix=False)(q, k, v, site))


def test_a_bias_counts_as_copies() -> None:
    """``key_bias`` log c on a token is what c equal tokens in its group would do."""
    q, k, v = random_qkv(1, 2, 13, 8)
    copies = torch.tensor([1, 2, 1, 1, 3, 1, 1, 2, 1, 1, 4, 1, 1])
    op, biased = plus(GROUPS.repeat_interleave(copies, 1)), plus(GROUPS)
    repeated = op(*(x.repeat_interleave(copies, 2) for x in (q, k, v)), Site(scale=0.3))
    out = biased(q, k, v, Site(scale=0.3, key_bias=copies.double().log()[None]))
    first = copies.cumsum(0) - copies
    torch.testing.assert_close(out, repeated[:, :, first], atol=1e-9, rtol=0)


@pytest.mark.parametrize("width", [768, 1024, 1000])
def test_a_sketch_keeps_distances(width: int) -> None:
    x = torch.randn(1, 30, width, generator=torch.Generator().manual_seed(0))
    sketch = features_of("sketch", x[:, None], x[:, None], x[:, None], Site(scale=1.0, hidden=x))
    assert sketch.shape == (1, 30, SKETCH)
    ratio = torch.pdist(sketch[0]) / torch.pdist(x[0])
    assert 0.97 < float(ratio.median()) < 1.03
    assert 0.8 < float(ratio.min()) < float(ratio.max()) < 1.2


def test_a_sketch_of_few_features_is_the_features() -> None:
    x = torch.randn(1, 30, SKETCH)
    assert torch.equal(features_of("sketch", x[:, None], x[:, None], x[:, None], Site(scale=1.0, hidden=x)), x)


def test_groups_are_drawn_in_each_early_block_and_shared_by_the_late_ones() -> None:
    q, k, v = random_qkv(1, 2, 40, 8)
    drawn = []

    class Counting(Given):
        def __call__(self, *args, **kwargs):
            drawn.append((self, args[3].layer))
            return super().__call__(*args, **kwargs)

    late, early = (Counting(torch.arange(40)[None] % 4) for _ in range(2))
    op, memo = ClusterNystrom(late, early, landmarks=4), {}
    for layer in range(6):
        op(q, k, v, Site(scale=0.3, layer=layer, depth=6, memo=memo))
    assert drawn == [(early, 0), (early, 1), (early, 2), (late, 3)]
