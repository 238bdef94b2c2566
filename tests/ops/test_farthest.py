"""The back ends of farthest-point sampling pick the same tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fna.ops import farthest


def integers(rows: int, tokens: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(-4, 5, (rows, tokens, width), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize(("rows", "tokens", "width", "count"), [(1, 1, 3, 1), (2, 40, 3, 40), (4, 600, 16, 50), (1, 2100, 64, 20)])
def test_products_pick_as_differences_do(rows: int, tokens: int, width: int, count: int) -> None:
    x = integers(rows, tokens, width)
    assert torch.equal(farthest._product_loop(x, count, None, None), farthest._loop(x, count, None, None))


def test_products_keep_and_leave_out() -> None:
    generator = torch.Generator().manual_seed(1)
    allowed = torch.rand(3, 500, generator=generator) < 0.7
    kept = allowed & (torch.rand(3, 500, generator=generator) < 0.02)
    kept, before = kept.T.contiguous().T, kept.clone()  # any layout will do
    x = integers(3, 500, 8)
    found = farthest._product_loop(x, 60, kept, allowed)
    assert torch.equal(found, farthest._loop(x, 60, kept, allowed))
    assert torch.equal(kept, before)
    assert allowed.gather(1, found).all()


@pytest.mark.parametrize("tokens", [100, 500, 1025])
def test_a_row_is_the_same_alone_and_in_a_batch(tokens: int) -> None:
    x = torch.randn(5, tokens, 32, generator=torch.Generator().manual_seed(2))
    together = farthest.farthest_points(x, 30)
    assert torch.equal(together[3:4], farthest.farthest_points(x[3:4], 30))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_offset_common_to_all_tokens_costs_no_digits(scale: float) -> None:
    x = scale * torch.randn(1, 600, 16, generator=torch.Generator().manual_seed(3))
    moved = x + scale * 1000  # rounds x itself to about 1e-4 of its scale
    assert torch.equal(farthest._product_loop(moved, 20, None, None), farthest._loop(moved, 20, None, None))


def test_coincident_tokens_are_never_picked_twice() -> None:
    x = 1e4 * torch.randn(1, 10, 8, generator=torch.Generator().manual_seed(4)).repeat(1, 60, 1)
    found = farthest.farthest_points(x, 300)
    assert len(set(found[0].tolist())) == 300


def test_under_autocast_nothing_is_rounded() -> None:
    x = torch.randn(2, 600, 16, generator=torch.Generator().manual_seed(5))
    with torch.autocast("cpu", torch.bfloat16):
        found = farthest.farthest_points(x, 40)
    assert torch.equal(found, farthest.farthest_points(x, 40))
