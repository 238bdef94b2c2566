"""Exact attention against softmax written out, with everything a site can ask for; and chosen rows of it."""

from __future__ import annotations

import sys

import pytest
import torch

from fna.configs import build_attention
from fna.errors import UserError
from fna.ops.contract import Site
from fna.ops.exact import Exact, exact_rows
from fna.ops.kernels import sage
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


class FakeSage:
    """The package as far as it is called, adding what 1.0.6 does to its arguments."""

    @staticmethod
    def sageattn(q, k, v, tensor_layout, is_causal, sm_scale, smooth_k):
        assert tensor_layout == "HND"
        if smooth_k:
            k -= k.mean(2, keepdim=True)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=sm_scale)


def test_sage_is_refused_in_a_line_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, without the package, with masks, on a CPU, with heads that it does not take."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"kernel=sage: runs on NVIDIA GPUs only"):
        build_attention("exact", kernel="sage")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sage, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"kernel=sage: needs the package sageattention"):
        build_attention("exact", kernel="sage")
    monkeypatch.setattr(sage, "find_spec", lambda name: name)
    op = build_attention("exact", kernel="sage")
    q, k, v = random_qkv(1, 2, 130, 16, torch.float32)
    for field, value in {
        "keys": torch.ones(1, 130).bool(),
        "key_bias": torch.zeros(1, 130),
        "dense": torch.zeros(130, 130),
    }.items():
        with pytest.raises(UserError, match=f"Exact cannot honour '{field}' \\(block 2\\)"):
            op(q, k, v, Site(scale=0.3, layer=2, **{field: value}))
    with pytest.raises(UserError, match=r"kernel=sage \(block 2\): q is on cpu"):
        op(q, k, v, Site(scale=0.3, layer=2))
    with pytest.raises(UserError, match="torch or sage"):
        build_attention("exact", kernel="saga")


def test_sage_gets_keys_of_its_own_and_short_sequences_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sage, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "sageattention", FakeSage)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    q, k, v = random_qkv(1, 2, 130, 64, torch.float32)
    before = k.clone()
    op = Exact(kernel="sage")
    for causal in (False, True):
        out = sage.attend(q, k, v, Site(scale=0.3, causal=causal))
        torch.testing.assert_close(out, Exact()(q, k, v, Site(scale=0.3, causal=causal)), atol=1e-5, rtol=0)
    assert torch.equal(k, before)
    with pytest.raises(UserError, match="takes heads of 64, 96 or 128, and these are 80 wide"):
        op(*random_qkv(1, 2, 130, 80, torch.float32), Site(scale=0.3))
    assert op(q[:, :, :9], k[:, :, :9], v[:, :, :9], Site(scale=0.3)).shape == (1, 2, 9, 64)
