"""Exact attention against softmax written out, with everything a site can ask for; and chosen rows of it."""

from __future__ import annotations

import pytest
import torch

from fna.ops.contract import Site
from fna.ops.exact import Exact, exact_rows
from tests.ops.reference import random_qkv, softmax_attention

B, H, N, D = 3, 2, 14, 8
HIDE = float("-inf")


def masks(queries: int = N, offset: int = 0):
    """Site fields one by one and together, each with the additive bias ``[B, H, queries, N]`` that says the same."""
    generator = torch.Generator().manual_seed(3)
    keys = torch.rand(B, N, generator=generator) > 0.3
    keys[:, 0] = True
    bias = torch.randn(B, N, generator=generator, dtype=torch.float64)
    dense = torch.randn(1, H, queries, N, generator=generator, dtype=torch.float64)
    past = torch.arange(N) <= torch.arange(queries)[:, None] + offset
    added = {
        "keys": torch.where(keys, 0.0, HIDE)[:, None, None],
        "key_bias": bias[:, None, None],
        "causal": torch.where(past, 0.0, HIDE),
        "dense": dense,
    }
    fields = {"keys": keys, "key_bias": bias, "causal": True, "dense": dense}
    every = sum(added.values())
    return [({k: fields[k]}, added[k]) for k in fields] + [(fields, every), ({}, torch.zeros(()))]


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize(("queries", "offset"), [(N, 0), (5, N - 5), (1, N - 1), (5, 3)])
def test_exact_is_softmax(case: int, queries: int, offset: int) -> None:
    fields, bias = masks(queries, offset)[case]
    q, k, v = random_qkv(B, H, N, D)
    q = q[:, :, :queries]
    out = Exact()(q, k, v, Site(scale=0.3, q_offset=offset, **fields))
    torch.testing.assert_close(out, softmax_attention(q, k, v, 0.3, bias), atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("extra", [{}, {"causal": True}, {"key_bias": torch.zeros(2, 6)}])
def test_a_row_with_nothing_to_see_is_zero(dtype: torch.dtype, extra: dict) -> None:
    keys = torch.ones(2, 6, dtype=torch.bool)
    keys[0] = False
    q, k, v = random_qkv(2, 2, 6, 8, dtype)
    out = Exact()(q, k, v, Site(scale=1.0, keys=keys, **extra))
    assert not out[0].any()
    assert out.isfinite().all()


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("rows", ["shared", "per image", "bool", "bool shared", "bool none"])
def test_chosen_rows_are_exact_and_others_untouched(case: int, rows: str) -> None:
    fields, bias = masks()[case]
    q, k, v = random_qkv(B, H, N, D)
    ragged = torch.rand(B, N, generator=torch.Generator().manual_seed(4)) > 0.6
    ragged[1] = False
    shared = torch.zeros(N, dtype=torch.bool).index_fill(0, torch.tensor([0, 5]), True)
    choice, mask = {
        "shared": (torch.tensor([5, 0]), shared.expand(B, N)),
        "per image": (torch.tensor([[0, 1], [2, 3], [13, 12]]), torch.arange(N) // 2 == torch.tensor([[0], [1], [6]])),
        "bool": (ragged, ragged),
        "bool shared": (shared, shared.expand(B, N)),
        "bool none": (torch.zeros(N, dtype=torch.bool), torch.zeros(B, N, dtype=torch.bool)),
    }[rows]
    rough = torch.full_like(q, 7.0)
    out = exact_rows(rough, q, k, v, choice, Site(scale=0.3, **fields))
    expected = torch.where(mask[:, None, :, None], softmax_attention(q, k, v, 0.3, bias), 7.0)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)


def test_rows_take_gradients_without_changing_their_input() -> None:
    q, k, v = (t.requires_grad_() for t in random_qkv(B, H, N, D))
    rough = v * 2
    out = exact_rows(rough, q, k, v, torch.tensor([0]), Site(scale=0.3))
    assert torch.equal(rough, v * 2)
    out.sum().backward()
    assert q.grad is not None
    assert q.grad[:, :, 0].abs().sum() > 0
    assert not q.grad[:, :, 1:].any()


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_keys_are_those_of_each_head(queries: int, dtype: torch.dtype) -> None:
    """Two heads of keys for six of queries: as if each were there three times, with every kind of mask."""
    q, k, v = random_qkv(2, 6, 9, 8, dtype)
    q, k, v = q[:, :, -queries:], k[:, :2], v[:, :2]
    keys = torch.arange(9).expand(2, -1) > torch.tensor([[0], [3]])
    for site in (Site(scale=0.3), Site(scale=0.3, keys=keys), Site(scale=0.3, causal=True, q_offset=9 - queries)):
        expected = Exact()(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), site)
        assert torch.equal(Exact()(q, k, v, site), expected)
