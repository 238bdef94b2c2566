"""The block in which massive tokens are found, from norms alone."""

from __future__ import annotations

import torch
from torch import Tensor

from fna.masking.growth import detection_block


def norms(largest: list[float], patches: int = 20) -> Tensor:
    """``[2, blocks, patches]``: all 10 but one, which is as given."""
    out = torch.full((2, len(largest), patches), 10.0)
    out[:, :, 7] = torch.tensor(largest)
    return out


def test_the_authors_block_for_the_norms_that_they_plot() -> None:
    clip = [10.0] * 9 + [11, 20, 107, 237] + [237] * 11
    assert detection_block(norms(clip)) == 13


def test_no_growth_no_block() -> None:
    assert detection_block(norms([10.0] * 12)) is None
    assert detection_block(norms([10.0, 12, 15, 25])) is None


def test_growth_in_the_last_block_comes_too_late() -> None:
    assert detection_block(norms([10.0] * 5 + [200])) is None
