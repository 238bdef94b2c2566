"""Projections absorbed into landmarks: the same numbers as layers and attention one after the other, in fewer operations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fna.ops.absorbed import absorbed_flops, absorbed_nystrom, absorbs, apart, mean_queries, plain_flops
from fna.ops.contract import Projections
from fna.ops.kernels import cpu
from fna.ops.nystrom import fast_nystrom

pytestmark = pytest.mark.skipif(not cpu.built(), reason="no C++ compiler on this machine")
SHAPES = ((1, 64, 4, 16, 130, 16), (3, 48, 3, 20, 70, 32), (2, 64, 2, 64, 300, 64), (1, 32, 40, 8, 65, 16))


def drawn(
    batch: int, depth: int, heads: int, width: int, tokens: int, marks: int, biases: bool = True
) -> tuple[Tensor, Tensor, Projections]:
    """Tokens, their landmarks, and layers that give logits of ordinary size."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inner, outer = 1.5 * depth**-0.5 * numbers(3 * heads * width, depth), numbers(depth, heads * width)
    added = (numbers(3 * heads * width), numbers(depth)) if biases else (None, None)
    index = torch.stack([torch.randperm(tokens, generator=generator)[:marks] for _ in range(batch)])
    return numbers(batch, tokens, depth), index, Projections(heads, inner, added[0], outer, added[1])


def one_after_the_other(x: Tensor, index: Tensor, around: Projections, scale: float, inverse: str, steps: int) -> Tensor:
    """In float64: the layer, the attention, the other layer."""
    inner, inner_bias, outer, outer_bias = (None if part is None else part.double() for part in around.tensors)
    assert inner is not None
    assert outer is not None
    parts = F.linear(x.double(), inner, inner_bias).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (around.heads, -1)).transpose(1, 2) for part in parts)
    out = fast_nystrom(q, k, v, index, scale=scale, inverse=inverse, steps=steps, ridge=3e-4)
    return F.linear(out.transpose(1, 2).flatten(2), outer, outer_bias)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("inverse", "steps"), [("ridge", 0), ("newton", 6), ("newton", 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_layers_and_attention_one_after_the_other(shape: tuple[int, ...], inverse: str, steps: int, biases: bool) -> None:
    x, index, around = drawn(*shape, biases=biases)
    scale = shape[3] ** -0.5
    out = absorbed_nystrom(x, index, around, scale=scale, steps=steps, ridge=3e-4)
    expected = one_after_the_other(x, index, around, scale, inverse, max(steps, 1))
    assert out.shape == x.shape
    assert (out - expected).norm() <= 3e-5 * expected.norm()


def test_logits_of_any_size_give_numbers() -> None:
    x, index, around = drawn(*SHAPES[0])
    for size in (1e-6, 1e3):
        out = absorbed_nystrom(x, index, replace(around, inner=size * around.inner), scale=0.25, steps=0, ridge=3e-4)
        assert out.isfinite().all()


def test_an_image_is_alone_in_its_batch() -> None:
    x, index, around = drawn(*SHAPES[1])
    whole = absorbed_nystrom(x, index, around, scale=0.2, steps=6, ridge=1e-4)
    for image in range(len(x)):
        alone = absorbed_nystrom(x[image : image + 1], index[image : image + 1], around, scale=0.2, steps=6, ridge=1e-4)
        assert torch.allclose(alone[0], whole[image], rtol=1e-4, atol=1e-5)


def test_threads_do_not_show() -> None:
    x, index, around = drawn(*SHAPES[2])
    before = torch.get_num_threads()
    outs = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            outs.append(absorbed_nystrom(x, index, around, scale=0.125, steps=0, ridge=3e-4))
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(*outs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("token", [-1, 130])
def test_a_landmark_that_is_no_token_is_refused(token: int) -> None:
    x, index, around = drawn(*SHAPES[0])
    index[0, 3] = token
    with pytest.raises(IndexError, match="none of the 130 tokens"):
        absorbed_nystrom(x, index, around, scale=0.25, steps=0, ridge=3e-4)


def test_the_mean_of_the_layers_gives_the_mean_of_the_queries() -> None:
    for biases in (True, False):
        x, _, around = drawn(2, 48, 3, 16, 70, 32, biases)
        q = F.linear(x, around.inner, around.inner_bias)[..., :48].unflatten(-1, (3, 16)).mean(-2)
        assert torch.allclose(mean_queries(x, around)[:, 0], q, atol=1e-5)


def test_the_count_of_operations_is_that_of_the_products() -> None:
    x, index, around = drawn(2, 64, 2, 64, 300, 32)
    marks, width = 32, 128
    with FlopCounterMode(display=False) as counter:
        absorbed_nystrom(x, index, around, scale=0.125, steps=6, ridge=0.0)
    small = 2 * marks**2 * width + 2 * 2 * marks**2 * ((4 * 6 - 3) * marks + 4 * 64)  # landmark blocks and their inverses
    assert counter.get_total_flops() == 2 * (absorbed_flops(300, marks, around) + small)
    tokens = x.double().requires_grad_()  # by plain torch
    with FlopCounterMode(display=False) as counter:
        one_after_the_other(tokens, index, around, 0.125, "newton", 6)
    assert counter.get_total_flops() == 2 * (plain_flops(300, marks, around) + small)


def test_fewer_landmarks_than_a_head_is_wide_take_less_than_a_block_without_attention() -> None:
    # DINOv2-S at 518 px
    around = Projections(6, torch.zeros(3 * 384, 384), None, torch.zeros(384, 384), None)
    without_attention = 8 * 1370 * 384 * 384
    assert absorbed_flops(1370, 32, around) < 0.7 * without_attention
    assert without_attention < absorbed_flops(1370, 64, around) < plain_flops(1370, 64, around)


def test_layers_are_absorbed_where_that_is_less_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, around = drawn(1, 64, 1, 64, 300, 16)
    few, many = 16, 208
    monkeypatch.delenv("FNA_CPU_PATH", raising=False)
    with torch.inference_mode():
        assert absorbs(x, few, around)
        assert not absorbs(x, many, around)
        assert not absorbs(x, 15, around)  # rows of whole vectors only
        assert not absorbs(x.double(), few, around)
        assert not absorbs(x.to(torch.bfloat16), few, around)
        with apart():
            assert not absorbs(x, few, around)
        with cpu.without_kernels():
            assert not absorbs(x, few, around)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not absorbs(x, few, around)
        monkeypatch.setenv("FNA_CPU_PATH", "absorbed")
        assert absorbs(x, many, around)
        monkeypatch.setenv("FNA_CPU_PATH", "kernels")
        assert not absorbs(x, few, around)
    assert not absorbs(x, few, replace(around, outer=around.outer.requires_grad_()))
