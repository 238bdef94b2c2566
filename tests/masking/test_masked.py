"""Masking and sinking against attention written out with loops, in float64, for every mode and pattern."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fna.masking.masked import MODES, PATTERNS, Found, Masked, Watched
from fna.ops.contract import Site, Tokens, Unsupported
from fna.ops.exact import Exact

B, H, N, D = 3, 2, 9, 4
SITE = Site(scale=0.5, tokens=Tokens(prefix=1, grid=(2, 4)))


@dataclass(frozen=True, eq=False)
class Given:
    """A rule that flags what it is told to."""

    chosen: Tensor

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        return self.chosen


def qkv(seed: int = 0, count: int = N) -> Tensor:
    return torch.randn(3, B, H, count, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sets(*rows: tuple[int, ...]) -> Tensor:
    chosen = torch.zeros(len(rows), N, dtype=torch.bool)
    for image, members in enumerate(rows):
        chosen[image, list(members)] = True
    return chosen


RAGGED = sets((1, 4), (), (2, 3, 8))


def taken(pattern: str, chosen: Tensor, i: int, j: int) -> bool:
    """Whether query i loses key j in one image; written from the words of the facts, not from the table."""
    a, b = bool(chosen[i]), bool(chosen[j])
    return {
        "type1": b,
        "type2": b and i != j,
        "inside": a and b,
        "others_to_set": not a and b,
        "set_to_all": a,
        "set_to_others": a and not b,
        "all": True,
        "self": a and i == j,
    }[pattern]


def brute(q: Tensor, k: Tensor, v: Tensor, site: Site, chosen: Tensor, mode: str, pattern: str) -> Tensor:
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for i in range(q.shape[2]):
            seen = [j for j in range(k.shape[2]) if site.keys is None or site.keys[b, j]]
            gone = {j for j in seen if taken(pattern, chosen[b], i, j)}
            left = [j for j in seen if j not in gone]
            pool = left if mode == "mask" else seen
            for h in range(H):
                weights = {j: float(torch.exp(q[b, h, i] @ k[b, h, j] * site.scale)) for j in pool}
                total = sum(weights.values())
                for j in left:
                    out[b, h, i] += weights[j] / total * v[b, h, j]
    return out


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_brute_force(mode: str, pattern: str) -> None:
    q, k, v = qkv()
    out = Masked(Exact(), Given(RAGGED), mode, pattern)(q, k, v, SITE)
    torch.testing.assert_close(out, brute(q, k, v, SITE, RAGGED, mode, pattern), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mode", MODES)
def test_keys_of_the_site_stay_hidden(mode: str, pattern: str) -> None:
    q, k, v = qkv(1)
    keys = torch.ones(B, N, dtype=torch.bool)
    keys[0, 5:] = False
    keys[2, :] = False  # an image of nothing but padding
    site = replace(SITE, keys=keys)
    out = Masked(Exact(), Given(RAGGED), mode, pattern)(q, k, v, site)
    torch.testing.assert_close(out, brute(q, k, v, site, RAGGED, mode, pattern), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mode", MODES)
def test_everything_masked_is_finite(mode: str, pattern: str) -> None:
    q, k, v = qkv(2)
    everything = torch.ones(B, N, dtype=torch.bool)
    site = replace(SITE, tokens=Tokens(prefix=0))
    out = Masked(Exact(), Given(everything), mode, pattern)(q, k, v, site)
    assert out.isfinite().all()
    torch.testing.assert_close(out, brute(q, k, v, site, everything, mode, pattern), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_prefix_and_suffix_are_never_taken(mode: str) -> None:
    q, k, v = qkv(3)
    everything = torch.ones(B, N, dtype=torch.bool)
    site = replace(SITE, tokens=Tokens(prefix=2, suffix=1))
    kept = everything.clone()
    kept[:, :2] = kept[:, -1:] = False
    out = Masked(Exact(), Given(everything), mode)(q, k, v, site)
    torch.testing.assert_close(out, brute(q, k, v, site, kept, mode, "type1"), rtol=1e-12, atol=1e-12)


def test_nothing_found_changes_nothing() -> None:
    q, k, v = qkv(4)
    for mode in MODES:
        for pattern in PATTERNS:
            out = Masked(Exact(), Given(sets((), (), ())), mode, pattern)(q, k, v, SITE)
            want = torch.zeros_like(q) if pattern == "all" else Exact()(q, k, v, SITE)
            torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_exact_rows_honour_bias_dense_and_causal(mode: str) -> None:
    """The rows that are recomputed must see what the wrapped op sees: with T empty of effect, both are the same."""
    q, k, v = qkv(5)
    generator = torch.Generator().manual_seed(6)
    site = replace(
        SITE,
        key_bias=torch.randn(B, N, generator=generator, dtype=torch.float64),
        dense=torch.randn(1, H, N, N, generator=generator, dtype=torch.float64),
        causal=True,
    )
    chosen = sets((1,), (1,), (1,))
    out = Masked(Exact(), Given(chosen), mode, "set_to_others")(q, k, v, site)
    want = Exact()(q, k, v, site)
    others = [i for i in range(N) if i != 1]
    torch.testing.assert_close(out[:, :, others], want[:, :, others], rtol=1e-12, atol=1e-12)
    causal_row = Masked(Exact(), Given(chosen), mode, "others_to_set")(q, k, v, site)
    torch.testing.assert_close(causal_row[:, :, 1], want[:, :, 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keeps_dtype_and_input(dtype: torch.dtype) -> None:
    q, k, v = qkv(7).to(dtype)
    before = v.clone()
    for mode in MODES:
        for pattern in PATTERNS:
            out = Masked(Exact(), Given(RAGGED), mode, pattern)(q, k, v, SITE)
            assert out.dtype == dtype
            assert out.isfinite().all()
    assert torch.equal(v, before)


def test_rows_do_not_depend_on_batch_mates() -> None:
    q, k, v = qkv(8)
    for pattern in PATTERNS:
        whole = Masked(Exact(), Given(RAGGED), "mask", pattern)(q, k, v, SITE)
        alone = Masked(Exact(), Given(RAGGED[:1]), "mask", pattern)(q[:1], k[:1], v[:1], SITE)
        torch.testing.assert_close(whole[:1], alone, rtol=1e-12, atol=1e-12)


def test_found_reads_what_watched_put_down() -> None:
    q, k, v = qkv(9)
    site = replace(SITE, memo={})
    massive, sinks = RAGGED, sets((1, 5), (6,), (2,))
    Watched(Exact(), Given(massive))(q, k, v, site)
    site.memo["found", "sinks"] = sinks
    for category, want in {"massive": massive, "artifact": sinks & ~massive, "both": sinks | massive}.items():
        assert torch.equal(Found(category)(q, k, site), want)


def test_found_follows_merged_tokens() -> None:
    source = torch.tensor([[0, 1, 1, 2, 2, 3, -1, 3, 3]]).expand(B, -1)
    tokens = Tokens(version=1, source=source, sizes=torch.ones(B, 4))
    site = replace(SITE, tokens=tokens, memo={("found", "massive"): RAGGED})
    q, k, _ = qkv(10, 4)
    want = torch.tensor([[False, True, True, False], [False] * 4, [False, True, True, True]])
    assert torch.equal(Found("massive")(q, k, site), want)


def test_what_cannot_be_done_says_so() -> None:
    q, k, v = qkv(11)
    with pytest.raises(Unsupported, match="no block before it has looked"):
        Masked(Exact(), Found("massive"))(q, k, v, replace(SITE, memo={}))
    site = replace(SITE, tokens=Tokens(version=1), memo={("found", "massive"): RAGGED})
    with pytest.raises(Unsupported, match="without saying where"):
        Masked(Exact(), Found("massive"))(q, k, v, site)
    with pytest.raises(Unsupported, match="as many queries as keys"):
        Masked(Exact(), Given(RAGGED), pattern="type2")(q[:, :, :1], k, v, SITE)
    with pytest.raises(ValueError, match="there is mask, sink"):
        Masked(Exact(), Given(RAGGED), mode="drown")
    with pytest.raises(ValueError, match="type1, type2"):
        Masked(Exact(), Given(RAGGED), pattern="type3")
    with pytest.raises(ValueError, match="massive, artifact, both"):
        Found("normal")
