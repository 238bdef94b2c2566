"""Which tokens go into which, and what becomes of their features. B batch, N tokens before, K after, r that go.

Everything is told image by image: nothing depends on batch mates, and ties are broken by index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fna.ops.contract import Tokens, whole


@dataclass(frozen=True, eq=False)
class Joining:
    """``kept`` int64 ``[B, K]``: the token at each new place. ``gone`` ``[B, r]``: tokens that go, ``into`` ``[B, r]``
    the new places of those that stand for them. ``target`` ``[B, N]``: the new place of each token."""

    kept: Tensor
    gone: Tensor
    into: Tensor
    target: Tensor


def joining(gone: Tensor, hosts: Tensor, count: int, order: Tensor | None = None) -> Joining:
    """Of ``count`` tokens those numbered ``gone`` ``[B, r]`` go into those numbered ``hosts`` ``[B, r]``, which stay.

    What stays keeps its order, or that of the numbers ``order`` int64 ``[N]``, below 4 N.
    """
    count, fewer = whole(count), whole(gone.shape[1])
    order = torch.arange(count, device=gone.device) if order is None else order
    last = order.expand(gone.shape[0], -1).scatter(1, gone, 4 * count)
    kept = last.argsort(dim=1, stable=True)[:, : count - fewer]
    places = torch.arange(kept.shape[1], device=gone.device).expand_as(kept)
    target = torch.zeros_like(last).scatter(1, kept, places)
    into = target.gather(1, hosts)
    return Joining(kept, gone, into, target.scatter(1, gone, into))


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of ``x`` ``[B, N, D]`` at ``index`` int64 ``[B, n]``: ``[B, n, D]``. Whole rows are copied, not number by number."""
    return x.flatten(0, 1).index_select(0, _flat(index, x.shape[1])).view(*index.shape, x.shape[2])


def add_rows(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """``x`` ``[B, K, D]``, changed in place: ``values`` ``[B, r, D]`` added at ``index`` ``[B, r]``, which may repeat."""
    return x.view(-1, x.shape[2]).index_add_(0, _flat(index, x.shape[1]), values.flatten(0, 1)).view_as(x)


def _flat(index: Tensor, count: int) -> Tensor:
    return (index + torch.arange(index.shape[0], device=index.device)[:, None] * count).flatten()


def sizes_of(tokens: Tokens, x: Tensor) -> Tensor:
    """How many originals each token of ``x`` stands for: float32 ``[B, N]``."""
    return torch.ones(x.shape[:2], device=x.device) if tokens.sizes is None else tokens.sizes


def mean(x: Tensor, sizes: Tensor, join: Joining) -> Tensor:
    """Means of what was joined, weighted by ``sizes`` ``[B, N]``: ``[B, K, D]``. Only what goes is touched."""
    old = rows(x, join.kept)
    after = summed(sizes, join.target, join.kept.shape[1])
    share = (sizes.gather(1, join.gone) / after.gather(1, join.into)).to(x.dtype)
    return add_rows(old, join.into, (rows(x, join.gone) - rows(old, join.into)) * share[..., None])


def summed(values: Tensor, target: Tensor, count: int) -> Tensor:
    """Sums ``[B, K]`` of ``values`` ``[B, N]`` over what goes to each of ``count`` new places."""
    return values.new_zeros(values.shape[0], count).scatter_add(1, target, values)


def renewed(tokens: Tokens, target: Tensor, sizes: Tensor, weigh: bool, grid: tuple[int, int] | None = None) -> Tokens:
    """``tokens`` after each of them went to ``target`` ``[B, N]``; ``sizes`` ``[B, K]`` are the new ones.

    ``weigh``: the logarithm of its size is added to a token's logits as a key.
    """
    source = target if tokens.source is None else target.gather(1, tokens.source)
    bias = sizes.log() if weigh else None
    return replace(tokens, version=tokens.version + 1, grid=grid, source=source, sizes=sizes, bias=bias)


def joined(x: Tensor, tokens: Tokens, join: Joining | None, weigh: bool) -> tuple[Tensor, Tokens]:
    """The size-weighted means and the tokens that they are; everything as it was for None."""
    if join is None:
        return x, tokens
    sizes = sizes_of(tokens, x)
    after = summed(sizes, join.target, join.kept.shape[1])
    return mean(x, sizes, join), renewed(tokens, join.target, after, weigh)


def patches(tokens: Tokens, count: int) -> tuple[int, int]:
    """First and last + 1 of the tokens that may be merged or dropped: CLS, registers and appended ones stay."""
    return tokens.prefix, whole(count) - tokens.suffix


def kept_of(share: float, count: int) -> int:
    """``share`` of ``count`` tokens, rounded up."""
    return math.ceil(round(share * whole(count), 9))
