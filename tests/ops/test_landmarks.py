"""Samplers of tokens: farthest points against the definition, kept and dropped tokens, random and even draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fna.configs import build_attention, choices
from fna.errors import UserError
from fna.ops import farthest
from fna.ops.contract import Site, Tokens
from fna.ops.kernels import cpu
from fna.ops.landmarks import FarthestPoint, Random, Uniform, features_of, sample_landmarks
from tests.ops.reference import farthest as reference
from tests.ops.reference import random_qkv

METHODS = ["fps", "random", "uniform"]


def points(batch: int = 3, tokens: int = 20, width: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["kernel", "quickfps", "products", "differences"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to farthest points that a CPU can run."""
    if request.param == "kernel":
        if not cpu.built():
            pytest.skip("no C++ compiler")
        return
    monkeypatch.setattr(cpu, "_WANTED", False)
    if request.param == "quickfps":
        pytest.importorskip("torch_quickfps")
        return
    monkeypatch.setattr(farthest, "_single_start", lambda *_: None)
    if request.param == "differences":
        monkeypatch.setattr(farthest, "_product_loop", farthest._loop)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kept", [[], [0], [3], [0, 7, 12], list(range(12))])
@pytest.mark.parametrize("dropped", [[], [0, 1, 5]])
def test_fps_is_greedy(kept: list[int], dropped: list[int]) -> None:
    x = points()
    keep, drop = torch.zeros(2, 20, dtype=torch.bool)
    keep[kept], drop[dropped] = True, True
    index = sample_landmarks(x, 8, keep=keep if kept else None, drop=drop if dropped else None)
    allowed = [token for token in range(20) if token in kept or token not in dropped]
    assert index.tolist() == [reference(row, 8, kept, allowed) for row in x]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kept", [None, [2], [2, 3]])
def test_coincident_points_come_last_and_never_twice(kept: list[int] | None) -> None:
    """Ten different points, each there three times, far from the origin: ten picks find all ten, thirty all tokens."""
    x = (1000 + points(2, 10)).repeat(1, 3, 1)
    keep = None if kept is None else torch.isin(torch.arange(30), torch.tensor(kept))
    index = sample_landmarks(x, 30, keep=keep)
    assert all(len({i % 10 for i in row[:10]}) == 10 for row in index.tolist())
    assert index.sort(1)[0].tolist() == [list(range(30))] * 2


@pytest.mark.usefixtures("backend")
def test_identical_points_are_taken_in_order() -> None:
    assert sample_landmarks(torch.ones(2, 9, 3), 6).tolist() == [list(range(6))] * 2


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_do_no_harm(bad: float) -> None:
    """In a method: an image that overflowed spoils no other. `sample_landmarks` refuses them."""
    x = points()
    x[1, 4] = bad
    x[2] = bad
    index = farthest.farthest_points(x, 20)
    assert index.sort(1)[0].tolist() == [list(range(20))] * 3
    assert index[0].tolist() == sample_landmarks(points(), 20)[0].tolist()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_masks_any_count(data: st.DataObject) -> None:
    """Ragged keep and drop, coincident points, more asked than there is: distinct, allowed, kept first, as many as can be had."""
    batch, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    count = data.draw(st.integers(1, 15))
    method = data.draw(st.sampled_from(METHODS))
    bits = st.lists(st.lists(st.booleans(), min_size=tokens, max_size=tokens), min_size=batch, max_size=batch)
    keep, drop = torch.tensor(data.draw(bits)), torch.tensor(data.draw(bits))
    x = points(batch, tokens).round() if data.draw(st.booleans()) else points(batch, tokens)
    index, valid = sample_landmarks(x, count, method, keep=keep, drop=drop, return_valid=True)
    assert index.shape == valid.shape == (batch, count)
    assert index.dtype == torch.int64
    assert bool((index >= 0).all() & (index < tokens).all())
    for b in range(batch):
        chosen = index[b][valid[b]].tolist()
        kept = keep[b].nonzero()[:, 0].tolist()
        allowed = (keep[b] | ~drop[b]).nonzero()[:, 0].tolist()
        assert len(set(chosen)) == len(chosen) == min(count, len(allowed))
        assert set(chosen) <= set(allowed)
        assert chosen[: len(kept)] == kept[:count]
    if not valid.all():
        with pytest.raises(ValueError, match=r"only \d+ tokens"):
            sample_landmarks(x, count, method, keep=keep, drop=drop)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_gets_the_same_landmarks_alone_and_in_a_batch(method: str) -> None:
    x = points(5, 40, 8)
    together = sample_landmarks(x, 9, method)
    assert torch.equal(torch.cat([sample_landmarks(row[None], 9, method) for row in x]), together)


def test_random_depends_on_seed_layer_tokens_and_count_alone() -> None:
    q, k, v = random_qkv(4, 2, 50, 8)
    site = lambda layer=0: Site(scale=1.0, layer=layer)  # noqa: E731
    first = Random(0)(q, k, v, site(), 10).index
    assert (first == first[0]).all()
    assert torch.equal(first[:1], Random(0)(v[:1], q[:1], k[:1], site(), 10).index)
    torch.manual_seed(123)
    assert torch.equal(first, Random(0)(q, k, v, site(), 10).index)
    for other in (
        Random(1)(q, k, v, site(), 10),
        Random(0)(q, k, v, site(1), 10),
        Random(0)(*(t[:, :, 1:] for t in (q, k, v)), site(), 10),
    ):
        assert not torch.equal(first, other.index)


def test_random_is_uniform() -> None:
    counts = torch.zeros(10)
    for seed in range(400):
        counts[sample_landmarks(torch.zeros(1, 10, 1), 3, "random", seed=seed)[0]] += 1
    assert (counts - 120).abs().max() < 40  # 120 expected, standard deviation 9


@pytest.mark.parametrize(
    ("grid", "count"), [((8, 8), 16), ((14, 14), 49), ((4, 9), 6), ((9, 4), 6), ((1, 30), 7), ((30, 1), 1), ((5, 5), 25)]
)
def test_uniform_covers_the_grid(grid: tuple[int, int], count: int) -> None:
    """No patch is farther from its nearest landmark than about a cell's diagonal."""
    rows, columns = grid
    index = sample_landmarks(torch.zeros(1, rows * columns, 1), count, "uniform", grid=grid)[0]
    assert len(set(index.tolist())) == count
    at = torch.stack([index // columns, index % columns], 1).double()
    every = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    cell = (rows * columns / count) ** 0.5
    assert torch.cdist(every, at).min(1)[0].max() <= 1.5 * max(cell, max(grid) / count)


def test_uniform_over_a_grid_with_prefix_counts_the_prefix() -> None:
    q, k, v = random_qkv(2, 2, 65, 8)
    site = Site(scale=1.0, tokens=Tokens(prefix=1, grid=(8, 8)))
    index = Uniform()(q, k, v, site, 17, keep=torch.arange(65) < 1).index
    assert index[:, 0].tolist() == [0, 0]
    assert sorted(index[0, 1:].tolist()) == sorted(1 + sample_landmarks(torch.zeros(1, 64, 1), 16, "uniform", grid=(8, 8))[0])


def test_uniform_along_a_sequence_is_even_within_what_may_be_seen() -> None:
    drop = torch.zeros(2, 40, dtype=torch.bool)
    drop[1, 20:] = True
    index = sample_landmarks(torch.zeros(2, 40, 1), 5, "uniform", drop=drop).sort(1)[0]
    assert index.diff(dim=1).tolist() == [[8] * 4, [4] * 4]


def test_features() -> None:
    q, k, v = random_qkv(2, 3, 10, 4, torch.bfloat16)
    site = Site(scale=1.0, hidden=torch.randn(2, 10, 12))
    for name, expected in {"q": q, "k": k, "v": v}.items():
        assert torch.equal(features_of(name, q, k, v, site), expected.float().mean(1))
    assert features_of("qk", q, k, v, site).shape == (2, 10, 8)
    assert torch.equal(features_of("input", q, k, v, site), site.hidden)
    with pytest.raises(ValueError, match="features=z"):
        FarthestPoint("z")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"count": 0}, "count"),
        ({"method": "best"}, "method=best"),
        ({"count": 21}, "only 20 tokens"),
        ({"keep": torch.ones(19).bool()}, "keep"),
        ({"drop": torch.ones(20)}, "drop"),
        ({"drop": torch.ones(20).bool()}, "only 0 tokens"),
    ],
)
def test_sample_landmarks_refuses(wrong: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match) as refusal:
        sample_landmarks(**{"x": points(), "count": 4, **wrong})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_and_no_gradient(dtype: torch.dtype) -> None:
    index = sample_landmarks(points().to(dtype).requires_grad_(), 5)
    assert index.dtype == torch.int64
    assert not index.requires_grad


@pytest.mark.parametrize("name", choices("sampler"))
def test_every_sampler_yaml_works_or_is_refused_in_a_sentence(name: str) -> None:
    if name in ("segment_means", "kmeans"):
        with pytest.raises(UserError, match="FastNystrom cannot use sampler"):
            build_attention("fna", sampler=name)
        return
    q, k, v = random_qkv(2, 2, 17, 8)
    op = build_attention("fna", sampler=name, landmarks=5, seed=3)
    assert op(q, k, v, Site(scale=0.3, tokens=Tokens(grid=(4, 4)))).isfinite().all()


def test_a_mask_is_a_bool_tensor() -> None:
    with pytest.raises(ValueError, match=r"keep=0: must be a bool tensor \[20\] or \[3, 20\]"):
        sample_landmarks(points(), 4, keep=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"drop must be bool \[20\] or \[3, 20\]; got torch.int64 \[20\]"):
        sample_landmarks(points(), 4, drop=torch.zeros(20, dtype=torch.int64))
