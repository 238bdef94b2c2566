"""Back from the tokens that are left to those that there were."""

from __future__ import annotations

import pytest
import torch

from fna.ops.contract import Site, Tokens
from fna.ops.exact import Exact, with_channel
from fna.ops.spread import at_first, of_images, spread

MERGED = Tokens(1, version=1, source=torch.tensor([[0, 1, 1, 2], [0, 2, 1, 2]]))


def test_every_original_gets_what_it_went_into_has() -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    assert torch.equal(spread(x, MERGED)[0], x[0, [0, 1, 1, 2]])
    assert torch.equal(spread(x, MERGED)[1], x[1, [0, 2, 1, 2]])
    assert torch.equal(spread(x[..., 0], MERGED), spread(x, MERGED)[..., 0])
    assert spread(x, Tokens(1)) is x
    assert spread(x, None) is x


def test_what_was_found_of_some_tokens_is_found_of_all_that_they_stand_for() -> None:
    found = torch.tensor([[False, True, False], [False, False, True]])
    assert at_first(found, MERGED).tolist() == [[False, True, True, False], [False, True, False, True]]
    assert at_first(torch.tensor([[2, -1], [1, 2]]), MERGED).tolist() == [[3, -1], [2, 1]]
    assert at_first(found, Tokens(1)) is found


def test_some_images_of_a_batch() -> None:
    some = of_images(MERGED, torch.tensor([1]))
    assert some is not None
    assert some.source is not None
    assert some.source.tolist() == [[0, 2, 1, 2]]
    assert of_images(None, torch.tensor([1])) is None


@pytest.mark.parametrize("width", [6, 16, 22, 64])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_sizes_as_a_channel_are_sizes_as_a_mask(width: int, dtype: torch.dtype, close: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 11, width, generator=generator).to(dtype)
    bias = torch.randint(1, 300, (2, 11), generator=generator).float().log()
    site = Site(scale=width**-0.5, key_bias=bias, tokens=Tokens(1, bias=bias))
    wide, groups = with_channel(q, k, v, site), with_channel(q, k[:, :2], v[:, :2], site)
    assert wide.shape == q.shape
    torch.testing.assert_close(wide, Exact()(q, k, v, site), atol=close, rtol=close)
    torch.testing.assert_close(groups, Exact()(q, k[:, :2], v[:, :2], site), atol=close, rtol=close)
