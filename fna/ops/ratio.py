"""One normaliser in place of a softmax a factor: numerators over denominators, where a denominator can be trusted.

Weights that come out of an inverse may be negative, so a row's denominator may be near zero or below it. Such a row is answered by
attention over the landmarks alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fna.ops.contract import unread

# A denominator below this share of its absolute terms is what cancellation has left of it. The output error of `nystrom_ratio` on a
# ViT-Ti (blocks 6-11, 32 landmarks, 200 images) is .192 for a share of 0, .187 for .001, .180 for .01, .155 for .1, .148
# for .2, .145 for .3 and .147 for .5; other methods have no such rows there.
LEAST = 0.2


def ratio(weights: Tensor, values: Tensor, masses: Tensor, instead: Callable[[], Tensor]) -> Tensor:
    """``weights @ values / weights @ masses``: weights ``[..., N, M]`` not negative, values ``[..., M, d]``, masses of width 1.

    ``instead`` makes the output ``[..., N, d]`` of rows whose denominator is not positive; it is not called where there are none.
    """
    sums = weights @ torch.cat((values, masses, masses.abs()), -1)
    over, under, size = sums[..., :-2], sums[..., -2:-1], sums[..., -1:]
    sound = under > LEAST * size
    out = over / torch.where(sound, under, 1.0)
    if unread(sound) or not bool(sound.all()):
        out = torch.where(sound, out, instead())
    return out
