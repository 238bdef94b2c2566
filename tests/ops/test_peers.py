"""The peers against slow float64 readings of their formulas, at their limits, under masks, and in what they must not make."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fna.configs import build_attention
from fna.ops.agent import Agent
from fna.ops.clustered import Clustered
from fna.ops.contract import Attention, Site, Tokens, Unsupported
from fna.ops.grid import cells, pooling
from fna.ops.hyper import Hyper, inverse_gray
from fna.ops.nystrom_ratio import NystromRatio
from fna.ops.performer import Performer, orthogonal
from fna.ops.pnp_nystra import PnPNystra
from fna.ops.pooled_kv import PooledKeys
from fna.ops.random_projection import RandomProjection
from fna.ops.ratio import LEAST, ratio
from fna.ops.seeded import normal, uniform
from fna.ops.subset import Subset
from fna.ops.thin import Thin, buckets
from fna.ops.wildcat import WildCat, lambert
from fna.ops.window import Window
from tests.ops import peers_reference as slow
from tests.ops.reference import farthest, random_qkv, softmax_attention
from tests.ops.test_nystrom import LargestTensor

B, H, GRID, D, SCALE = 2, 2, (5, 6), 8, 0.4
N = 1 + GRID[0] * GRID[1]
SITE = Site(scale=SCALE, layer=3, tokens=Tokens(prefix=1, grid=GRID))
Head = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]  # q, k, v [N, d] of image b, head h


def qkv(seed: int = 0, tokens: int = N) -> tuple[Tensor, Tensor, Tensor]:
    return random_qkv(B, H, tokens, D, seed=seed)


def picks(count: int) -> list[list[int]]:
    """Farthest points of each image's head-mean queries, CLS first."""
    return [farthest(x, count, [0], list(range(N))) for x in qkv()[0].mean(1)]


MEMBERS = slow.cell_members(1, GRID, (2, 3))  # of 7 landmarks: CLS and 2 x 3 cells


def by_subset(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    return slow.each(q, k[picks(7)[b]], v[picks(7)[b]], SCALE)


def by_pooled(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    return slow.each(q, slow.means(k, MEMBERS), slow.means(v, MEMBERS), SCALE)


def by_sizes(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    sizes = torch.tensor([len(tokens) for tokens in MEMBERS], dtype=torch.float64)
    return slow.each(q, slow.means(k, MEMBERS), slow.means(v, MEMBERS), SCALE, sizes.log())


def by_clusters(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    groups = slow.clusters(k, 6, 3)
    sizes = torch.tensor([len(tokens) for tokens in groups], dtype=torch.float64)
    return slow.each(q, slow.means(k, groups), slow.means(v, groups), SCALE, sizes.log())


def by_ratio(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    return slow.nystrom_ratio(q, k, v, picks(7)[b], SCALE, 6, LEAST)


def by_pnp(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    return slow.pnp_nystra(q, k, v, MEMBERS, SCALE, steps=6)


def by_wildcat(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    return slow.wildcat(q, k, v, SCALE, uniform((H, 7), "wildcat", 5, 3, N, 7)[h])


def by_performer(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    return slow.performer(q, k, v, SCALE, orthogonal(20, D, 5, 3))


def by_projection(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    mix = normal((7, N), "random_projection", 5, 3, N, 7) / math.sqrt(7)
    return slow.each(q, mix @ k, mix @ v, SCALE)


def by_agents(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    agents = slow.means(q, MEMBERS)
    return slow.each(q, agents, slow.each(agents, k, v, SCALE), SCALE**0.3) + 0.075 * v


def by_hash(order: str) -> Head:
    def head(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
        planes = normal((D, 4), "hyper planes", 5, 3, D, 4)
        return slow.hyper(q, k, v, SCALE, 6, planes, uniform((H, 9), "hyper", 5, 3, N, 9)[h], order)

    return head


def by_window(size: int) -> Head:
    return lambda q, k, v, b, h: slow.window(q, k, v, SCALE, 1, GRID, size)


def by_thinning(q: Tensor, k: Tensor, v: Tensor, b: int, h: int) -> Tensor:
    lengths = [6, 6]  # 24 tokens in four buckets, then 12 in two
    draws = [uniform((H, 4 // 2**turn, 4), "thin", 5, 3, N, 6, turn)[h] for turn in range(2)]
    chosen = slow.thin(k, v, SCALE, 6, lengths, draws, 0.5)
    return slow.each(q, k[chosen], v[chosen], SCALE)


READINGS: list[tuple[Attention, Head]] = [
    (Subset(landmarks=7), by_subset),
    (PooledKeys(landmarks=7), by_pooled),
    (PooledKeys(landmarks=7, sizes=True), by_sizes),
    (Clustered(landmarks=6), by_clusters),
    (NystromRatio(landmarks=7), by_ratio),
    (PnPNystra(landmarks=7), by_pnp),
    (WildCat(landmarks=7, seed=5), by_wildcat),
    (Performer(features=20, seed=5), by_performer),
    (RandomProjection(landmarks=7, seed=5), by_projection),
    (Agent(landmarks=7), by_agents),
    (Hyper(block=6, samples=9, projections=4, seed=5), by_hash("inverse")),
    (Hyper(block=6, samples=9, projections=4, seed=5, order="gray"), by_hash("gray")),
    *((Window(window=size), by_window(size)) for size in (1, 2, 3, 4, 5, 6)),
    (Thin(landmarks=6, seed=5), by_thinning),
]


@pytest.mark.parametrize(("op", "head"), READINGS, ids=[str(op)[:60] for op, _ in READINGS])
def test_it_is_its_formula(op: Attention, head: Head) -> None:
    q, k, v = qkv()
    expected = torch.stack([torch.stack([head(q[b, h], k[b, h], v[b, h], b, h) for h in range(H)]) for b in range(B)])
    torch.testing.assert_close(op(q, k, v, SITE), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(
    "op",
    [
        Subset(landmarks=N),
        PooledKeys(landmarks=N),
        Clustered(landmarks=N, lloyd=2),
        NystromRatio(landmarks=N, inverse="exact"),
        WildCat(landmarks=N),
        Thin(landmarks=N),
        Hyper(block=N, samples=3),
        Window(window=6),
    ],
    ids=str,
)
def test_with_all_tokens_it_is_softmax_attention(op: Attention) -> None:
    q, k, v = qkv()
    torch.testing.assert_close(op(q, k, v, SITE), softmax_attention(q, k, v, SCALE), atol=1e-6, rtol=0)


def test_many_features_come_near_softmax_attention_where_norms_are_small() -> None:
    q, k, v = (x / 2 for x in qkv())
    errors = [(Performer(features=m)(q, k, v, SITE) - softmax_attention(q, k, v, SCALE)).norm() for m in (8, 8_000)]
    assert errors[1] < 0.25 * errors[0]


def test_many_samples_come_near_softmax_attention() -> None:
    q, k, v = qkv()
    exact = softmax_attention(q, k, v, SCALE)
    errors = [(Hyper(block=4, samples=m)(q, k, v, SITE) - exact).norm() / exact.norm() for m in (4, 20_000)]
    assert errors[1] < 0.03 < errors[0]


@pytest.mark.parametrize("op", [Subset(landmarks=6), NystromRatio(landmarks=6), Clustered(landmarks=6)], ids=str)
def test_hidden_tokens_are_as_good_as_absent(op: Attention) -> None:
    q, k, v = random_qkv(B, H, 20, D)
    keys = torch.rand(B, 20, generator=torch.Generator().manual_seed(5)) > 0.4
    keys[:, 0] = True
    out = op(q, k, v, Site(scale=SCALE, keys=keys))
    for b in range(B):
        seen = keys[b].nonzero()[:, 0]
        alone = op(*(x[b : b + 1, :, seen] for x in (q, k, v)), Site(scale=SCALE))
        torch.testing.assert_close(out[b : b + 1, :, seen], alone, atol=1e-6, rtol=0)


def test_hidden_tokens_are_as_good_as_absent_from_the_same_draws() -> None:
    """Methods whose draws depend on the number of tokens, against their formulas on what is seen with the draws of all."""
    q, k, v = qkv()
    keys = torch.rand(B, N, generator=torch.Generator().manual_seed(5)) > 0.4
    site = Site(scale=SCALE, layer=3, keys=keys)
    out = {op: op(q, k, v, site) for op in (WildCat(landmarks=5), Hyper(block=4, samples=5, projections=4), Performer(features=9))}
    for b in range(B):
        seen = keys[b].nonzero()[:, 0]
        for h in range(H):
            own = [x[b, h, seen] for x in (q, k, v)]
            planes, draws = normal((D, 4), "hyper planes", 0, 3, D, 4), uniform((H, 5), "hyper", 0, 3, N, 5)[h]
            expected = [
                slow.wildcat(*own, SCALE, uniform((H, 5), "wildcat", 0, 3, N, 5)[h]),
                slow.hyper(*own, SCALE, 4, planes, draws, "inverse"),
                slow.performer(*own, SCALE, orthogonal(9, D, 0, 3)),
            ]
            for found, reading in zip(out.values(), expected, strict=True):
                torch.testing.assert_close(found[b, h, seen], reading, atol=1e-6, rtol=0)


@pytest.mark.parametrize("op", [PooledKeys(landmarks=7, sizes=True), Agent(landmarks=7), PnPNystra(landmarks=7)], ids=str)
def test_a_cell_of_hidden_tokens_is_as_good_as_absent(op: Attention) -> None:
    """The lower half of the grid hidden: what is seen is answered as with a grid half as high and half as many cells."""
    q, k, v = random_qkv(B, H, 1 + 24, D)
    whole = Site(scale=SCALE, tokens=Tokens(prefix=1, grid=(4, 6)), keys=torch.arange(25).expand(B, -1) < 13)
    half = Site(scale=SCALE, tokens=Tokens(prefix=1, grid=(2, 6)))
    upper = type(op)(**{**vars(op), "landmarks": 4})
    assert cells(4, 6, 6) == (2, 3)
    assert cells(2, 6, 3) == (1, 3)
    expected = upper(*(x[:, :, :13] for x in (q, k, v)), half)
    torch.testing.assert_close(op(q, k, v, whole)[:, :, :13], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "op", [Clustered(landmarks=6), PooledKeys(landmarks=7, sizes=True), Window(window=7), Hyper(block=N, samples=3)], ids=str
)
def test_a_log_size_counts_as_copies(op: Attention) -> None:
    """With all tokens in view exp(b) copies of a key are a bias of b."""
    q, k, v = qkv()
    sizes = torch.randint(1, 4, (B, N), generator=torch.Generator().manual_seed(1)).double()
    full = type(op)(**{**vars(op), **({"landmarks": N} if hasattr(op, "landmarks") else {})})
    expected = softmax_attention(q, k, v, SCALE, sizes.log()[:, None, None])
    site = Site(scale=SCALE, tokens=SITE.tokens, key_bias=sizes.log())
    torch.testing.assert_close(full(q, k, v, site), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["wildcat", "performer", "random_projection", "hyper", "thin"])
def test_the_seed_decides_and_an_image_draws_the_same_alone(name: str) -> None:
    q, k, v = qkv()
    sized = {} if name == "performer" else {"landmarks": 6}
    first, again, other = (build_attention(name, seed=seed, **sized)(q, k, v, SITE) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    alone = build_attention(name, seed=1, **sized)(q[1:], k[1:], v[1:], SITE)
    torch.testing.assert_close(alone, first[1:], atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("subset", {}), ("pooled_kv", {}), ("clustered", {}), ("nystrom_ratio", {}), ("pnp_nystra", {}), ("agent", {}),
        ("wildcat", {}), ("thin", {}), ("hyper", {}), ("performer", {"features": 32}), ("window", {"window": 3}),
        ("random_projection", {}),
    ],
)  # fmt: skip
def test_nothing_of_size_n_by_n_is_made(name: str, options: dict) -> None:
    """Every tensor is far below N x N, masks and their biases included."""
    q, k, v = random_qkv(1, 1, 1 + 48 * 48, 4, torch.float32)
    n = q.shape[2]
    keys = None if name == "thin" else torch.arange(n)[None] < n - 50
    site = Site(scale=0.5, keys=keys, tokens=Tokens(prefix=1, grid=(48, 48)))
    with torch.no_grad(), LargestTensor() as made:
        build_attention(name, landmarks=16, **options)(q, k, v, site)
    assert made.largest <= n * n / 16


@pytest.mark.parametrize("name", ["pooled_kv", "pnp_nystra", "agent", "window"])
def test_a_grid_that_is_gone_is_refused_in_a_line(name: str) -> None:
    q, k, v = qkv()
    with pytest.raises(Unsupported, match=r"needs a grid of patches.*before block 3: use attn=fna") as refusal:
        build_attention(name, landmarks=8)(q, k, v, Site(scale=SCALE, layer=3, tokens=Tokens(prefix=1, version=1)))
    assert "\n" not in str(refusal.value)


def test_cells_by_hand() -> None:
    assert cells(5, 6, 6) == (2, 3)
    assert cells(14, 14, 31) == (5, 6)
    assert cells(14, 14, 196) == (14, 14)
    assert cells(1, 30, 7) == (1, 7)
    assert cells(3, 4, 0) == (1, 1)
    assert cells(1, 0, 5) == (0, 0)


def test_pooling_is_torchs_adaptive_pooling() -> None:
    x = random_qkv(B, H, N + 2, D)[0]
    site = Site(scale=1.0, tokens=Tokens(prefix=1, suffix=2, grid=GRID))
    pool = pooling(PooledKeys(landmarks=3 + 12), x, site, None)
    patches = x[:, :, 1:-2].transpose(2, 3).unflatten(3, GRID).flatten(0, 1)
    expected = torch.nn.functional.adaptive_avg_pool2d(patches, pool.cells).flatten(2).mT.unflatten(0, (B, H))
    torch.testing.assert_close(pool(x)[:, :, 1:-2], expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.cat((pool(x)[:, :, :1], pool(x)[:, :, -2:]), 2), torch.cat((x[:, :, :1], x[:, :, -2:]), 2))


def test_a_denominator_that_is_not_positive_is_answered_by_the_landmarks_alone() -> None:
    weights = torch.tensor([[1.0, 1.0], [1.0, 0.1]])
    values, masses = torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [-2.0]])
    out = ratio(weights, values, masses, lambda: torch.full((2, 1), 7.0))
    torch.testing.assert_close(out, torch.tensor([[7.0], [3.4 / 0.8]]))
    torch.testing.assert_close(ratio(weights[1:], values, masses, lambda: pytest.fail("not needed")), out[1:])  # type: ignore[arg-type]


def test_lamberts_function() -> None:
    x = torch.tensor([1e-6, 0.05, 0.3, 1.0, math.e, 10.0, 1e6], dtype=torch.float64)
    w = lambert(x)
    torch.testing.assert_close(w * w.exp(), x, atol=0, rtol=1e-9)


def test_codes_side_by_side_differ_by_one_sign() -> None:
    """In the order of the inverse Gray code; in the released order only 192 of 255 do."""
    codes = torch.arange(256)
    apart = {}
    for order, bucket in (("inverse", inverse_gray(codes)), ("gray", codes ^ (codes >> 1))):
        by_bucket = bucket.argsort()
        apart[order] = sum(int(a ^ b).bit_count() == 1 for a, b in zip(by_bucket.tolist(), by_bucket.tolist()[1:], strict=False))
    assert apart == {"inverse": 255, "gray": 192}


def test_features_are_orthogonal_and_as_long_as_normal_vectors() -> None:
    omega = orthogonal(3 * 32, 32, 0, 0)
    products = omega[:32] @ omega[:32].T
    torch.testing.assert_close(products, torch.diag(products.diagonal()), atol=1e-9, rtol=0)
    assert abs(float(omega.square().sum(1).mean()) - 32) < 4


@pytest.mark.parametrize(("tokens", "count"), [(197, 32), (197, 7), (1025, 64), (31, 6), (50, 33), (9, 9), (1370, 48)])
def test_halving_buckets_are_even_and_leave_the_count(tokens: int, count: int) -> None:
    q, k, v = random_qkv(1, 2, tokens, 4)
    rounds = int(math.log2(tokens // count))
    for turn in range(rounds):
        size = count * 2 ** (rounds - turn)
        assert size % buckets(size, count, rounds, turn) == 0
        assert size // buckets(size, count, rounds, turn) % 2 == 0
    assert Thin(landmarks=count)(q, k, v, Site(scale=0.5)).isfinite().all()


def test_halving_keeps_the_attention_nearer_than_chance() -> None:
    """Clustered keys: over 20 seeds the coreset's error is below that of as many keys at random."""
    generator = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(4, D, generator=generator, dtype=torch.float64)
    k = (centres[torch.randint(0, 4, (256,), generator=generator)])[None, None]
    q, _, v = random_qkv(1, 1, 256, D, seed=3)
    exact = softmax_attention(q, k, v + k, SCALE)
    errors: dict[str, list[float]] = {"thin": [], "random": []}
    for seed in range(20):
        site = Site(scale=SCALE, tokens=Tokens(prefix=0), layer=seed)
        errors["thin"].append(float((Thin(landmarks=32, seed=seed)(q, k, v + k, site) - exact).norm()))
        random = build_attention("subset", landmarks=32, sampler="random", seed=seed)(q, k, v + k, site)
        errors["random"].append(float((random - exact).norm()))
    assert sum(errors["thin"]) < 0.95 * sum(errors["random"])


@pytest.mark.parametrize(("asked", "run"), [(50, None), (64, None), (48, 43), (1, 2)])
def test_pooling_says_how_many_landmarks_run_where_they_are_not_those_asked_for(asked: int, run: int | None) -> None:
    """Cells of one size do not make every number: 47 of 32 x 32 patches are 6 x 7."""
    x, site = torch.randn(1, 2, 1025, 4), Site(scale=0.5, tokens=Tokens(prefix=1, grid=(32, 32)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        PooledKeys(landmarks=asked)(x, x, x, site)
    told = [str(one.message) for one in said]
    assert len(told) == (run is not None)
    assert all(line.startswith(f"PooledKeys: {run} landmarks run, not {asked}: ") for line in told)
