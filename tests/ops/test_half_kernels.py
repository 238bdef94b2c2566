"""The CPU kernels on bfloat16 and float16: as exact as rounding allows, no batch or thread shows, threads of one row agree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fna.configs import build_attention
from fna.ops.centroids import group_sums
from fna.ops.contract import Site, Tokens
from fna.ops.farthest import farthest_points
from fna.ops.kernels import cpu
from fna.ops.landmarks import head_mean
from tests.ops.reference import softmax_attention

pytestmark = pytest.mark.skipif(not cpu.built(), reason="no C++ compiler on this machine")
HALVES = [torch.bfloat16, torch.float16]
WIDTHS = (16, 23, 64, 130)  # whole vectors and not


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def side_by_side(tokens: int, width: int, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as views of one projection."""
    drawn = torch.randn(batch, tokens, 3, 3, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    q, k, v = drawn.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def off(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("width", WIDTHS)
def test_landmarks_over_half_precision_tokens_are_summed_in_float32(dtype: torch.dtype, width: int) -> None:
    """In bfloat16 the weights may be rounded once, where the processor has products of pairs; the sums are not."""
    q, k, v = side_by_side(150, width, dtype)
    few = q[:, :, :33].float()
    out = cpu.few_queries(few, k, v, 0.2)
    assert out.dtype == torch.float32
    assert off(out, softmax_attention(few, k, v, 0.2)) < (torch.finfo(dtype).eps / 4 if dtype == torch.bfloat16 else 2e-6)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 1100, 4500])
def test_pairs_of_any_number_of_tokens_are_no_further_off_than_torchs_own_attention(tokens: int) -> None:
    q, k, v = side_by_side(tokens, 64, torch.bfloat16)
    few = q[:, :, :33]
    expected = softmax_attention(few, k, v, 0.2)
    torchs = F.scaled_dot_product_attention(few, k, v, scale=0.2)
    assert off(cpu.few_queries(few.float(), k, v, 0.2), expected) <= off(torchs, expected)


def test_rows_that_lie_an_odd_number_of_places_apart_are_read_one_by_one() -> None:
    q, k, v = (x.new_zeros(*x.shape[:3], 65)[..., :64].copy_(x) for x in side_by_side(150, 64, torch.bfloat16))
    few = q[:, :, :33].float()
    assert off(cpu.few_queries(few, k, v, 0.2), softmax_attention(few, k, v, 0.2)) < 2e-6
    assert off(cpu.few_keys(q, few, few, 0.2), softmax_attention(q, few, few, 0.2)) < torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("width", WIDTHS)
def test_answers_are_those_of_float64_rounded_once(dtype: torch.dtype, width: int) -> None:
    """To nearest, ties to even: within one unit where sums in float32 fall on the other side of a half."""
    q, k, v = side_by_side(150, width, dtype)
    keys, values = k[:, :, :33].float(), v[:, :, :33].float()
    out, expected = cpu.few_keys(q, keys, values, 0.2), softmax_attention(q, keys, values, 0.2).to(dtype)
    assert out.dtype == dtype
    assert (out == expected).double().mean() > 0.99
    assert off(out, expected) < torch.finfo(dtype).eps / 8


@pytest.mark.parametrize("dtype", HALVES)
def test_a_nan_stays_one_and_the_largest_number_stays_finite(dtype: torch.dtype) -> None:
    q, k, v = side_by_side(40, 16, dtype)
    values = v[:, :, :5].float().clone()
    values[0, 0] = float("nan")
    values[1, 0] = torch.finfo(dtype).max
    out = cpu.few_keys(q, k[:, :, :5].float(), values, 0.25)
    assert out[0, 0].isnan().all()
    assert out[1].isfinite().all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["fna", "fna_plus", "fna_local", "nystromformer"])
def test_methods_in_half_precision_are_the_plain_ones_in_float64_to_rounding(dtype: torch.dtype, name: str) -> None:
    q, k, v = side_by_side(197, 24, dtype)
    op = build_attention(name, landmarks=16)

    def site() -> Site:
        return Site(scale=24**-0.5, tokens=Tokens(prefix=1, grid=(14, 14)), layer=0, depth=4)

    out = op(q, k, v, site())
    with cpu.without_kernels():
        expected = op(q.double(), k.double(), v.double(), site())
    assert out.dtype == dtype
    assert off(out, expected) < torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALVES)
def test_an_image_alone_gets_what_it_gets_among_others(dtype: torch.dtype) -> None:
    q, k, v = side_by_side(300, 16, dtype, batch=3)
    few = q[:, :, :9].float()
    assert torch.equal(cpu.few_queries(few, k, v, 0.25)[1:2], cpu.few_queries(few[1:2], k[1:2], v[1:2], 0.25))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("width", WIDTHS)
def test_head_means_and_group_sums(dtype: torch.dtype, width: int) -> None:
    q, k, _ = side_by_side(150, width, dtype)
    group = torch.randint(-1, 7, (2, 150), generator=torch.Generator().manual_seed(1))
    assert off(head_mean(q), q.double().mean(1)) < 1e-6
    member = (group[:, None] == torch.arange(7)[:, None]).double()
    sums = group_sums(k, group, 7)
    assert sums.dtype == torch.float32
    assert off(sums, member[:, None] @ k.double()) < 1e-6


@pytest.mark.parametrize("tokens", [2048, 3001, 4097])
def test_threads_that_share_a_row_choose_what_one_would(tokens: int) -> None:
    """Of equal distances the lowest token, also across the threads' parts."""
    x = torch.randn(1, tokens, 16, generator=torch.Generator().manual_seed(0))
    x[:, tokens // 2 : tokens // 2 + 400] = x[:, :400]
    allowed = torch.rand(1, tokens, generator=torch.Generator().manual_seed(1)) < 0.5
    chosen = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        chosen.append(
            [farthest_points(x, 60), farthest_points(x, 60, None, allowed), farthest_points(x, 60, ~allowed & (x[..., 0] > 2.5))]
        )
    for one, two, three in zip(*chosen, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
