"""Low rank beside a mask of keys: what may not be seen, and who looks from there."""

from __future__ import annotations

import torch

from fna.masking.lowrank import LowRank
from fna.ops.contract import Site
from fna.ops.exact import Exact
from tests.ops.reference import random_qkv


def test_rows_of_hidden_tokens_are_those_of_exact() -> None:
    """A hidden token is seen by nobody and still looks, exactly; an image that hides all gives zeros, as exact does."""
    q, k, v = random_qkv(3, 2, 12, 8, torch.float32)
    keys = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)) > 0.4
    keys[2] = False
    site = Site(scale=0.3, keys=keys)
    out, exact = LowRank(rank=2)(q, k, v, site), Exact()(q, k, v, site)
    hidden = ~keys[:, None, :, None]
    torch.testing.assert_close(out.masked_fill(~hidden, 0), exact.masked_fill(~hidden, 0), atol=1e-5, rtol=1e-4)
    assert not out[2].any()
    torch.testing.assert_close(LowRank(rank=12)(q, k, v, site), exact, atol=1e-5, rtol=1e-4)
