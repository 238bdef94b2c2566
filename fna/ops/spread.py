"""From the tokens that are left back to those that there were: each original token gets what the one that it went into has."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.contract import Tokens


def changed(tokens: Tokens | None) -> bool:
    """Whether a sequence of these holds other tokens than the image has."""
    return tokens is not None and (tokens.source is not None or (tokens.whole is not None and tokens.whole != tokens.grid))


def spread(x: Tensor, tokens: Tokens | None) -> Tensor:
    """``x`` ``[B, N, ...]`` as ``[B, N0, ...]``: what a token holds, for every original that went into it.

    On a smaller grid (``tokens.whole``) patches ``[B, N, D]`` are interpolated, bilinearly. As it is where nothing was changed.
    """
    if tokens is None or not changed(tokens):
        return x
    if tokens.source is not None:
        index = tokens.source.reshape(*tokens.source.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
        return x.gather(1, index)
    assert tokens.grid is not None
    assert tokens.whole is not None
    first, last = tokens.prefix, x.shape[1] - tokens.suffix
    small = x[:, first:last].transpose(1, 2).unflatten(2, tokens.grid)
    large = F.interpolate(small.float(), tokens.whole, mode="bilinear").to(x.dtype)
    return torch.cat([x[:, :first], large.flatten(2).transpose(1, 2), x[:, last:]], dim=1)


def at_first(found: Tensor, tokens: Tokens | None) -> Tensor:
    """What was found of today's tokens, of those that the image had at first.

    bool ``[B, N]``: whether a token is one, ``[B, N0]``; int64 ``[B, n]``: their numbers (-1: none), of the first that went there.
    """
    if tokens is None or tokens.source is None:
        return found
    if found.dtype == torch.bool:
        return found.gather(1, tokens.source)
    place = (tokens.source[:, None, :] == found[:, :, None]).byte().argmax(-1)
    return place.where(found >= 0, found)


def of_images(tokens: Tokens | None, images: Tensor) -> Tokens | None:
    """The tokens of some images of a batch, by their numbers ``[b]``."""
    if tokens is None:
        return None
    source, sizes, bias = (None if held is None else held[images] for held in (tokens.source, tokens.sizes, tokens.bias))
    return replace(tokens, source=source, sizes=sizes, bias=bias)
