"""Farthest-point sampling of tokens: batched, seeded by every kept token, never the same token twice.

All back ends make the same picks up to rounding, with ties to the lowest index:

- on a CPU one pass in C++ a pick (`fna.ops.kernels.cpu`); without a compiler
  ``torch_quickfps.sample_idx_baseline`` up to 400 tokens, where one token is the start and no row runs short (its tree versions are
  never used: they repeat a point once only coincident ones are left, and with a height of 8 take 6 times as long),
  and above a loop whose steps are one matrix product each (`_product_loop`);
- on a GPU one Triton kernel (`fna.ops.kernels.gpu`);
- a loop of plain differences everywhere else.

By the number of tokens, not by the batch, so that an image gets the same landmarks alone and in a batch. Two cores of a quiet
machine, medians of 15 calls in milliseconds, 64 landmarks (256 for 4,097 tokens and 4 rows), width 64:

| tokens | rows | C++ | products | quickfps plain |
|---|---|---|---|---|
| 257 | 2 | 0.07 | 0.84 | 0.28 |
| 401 | 2 | 0.07 | 0.89 | 0.46 |
| 577 | 4 | 0.17 | 1.4 | 1.3 |
| 1025 | 1 | 0.14 | 0.81 | 1.1 |
| 1025 | 4 | 0.28 | 2.0 | 2.3 |
| 4097 | 1 | 0.57 | 2.8 | 4.4 |
| 4097 | 4 | 4.1 | 18 | 34 |
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fna.ops.inverse import full_precision
from fna.ops.kernels import cpu, gpu

QUICK_TOKENS = 400  # above this the plain op, which uses one thread a row, falls behind our loop


@torch.no_grad()
def farthest_points(x: Tensor, count: int, kept: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
    """Greedy farthest points of ``x`` ``[B, N, D]``: int64 ``[B, count]``, kept tokens first, in ascending order.

    ``kept`` and ``allowed`` bool ``[B, N]`` (kept within allowed; None: nothing kept, all allowed); ``count <= N``. The next
    token is the allowed one farthest from all chosen ones, the lowest index among equals; with nothing kept the first allowed
    token is the start. Entries beyond a row's supply are meaningless.
    """
    if not x.shape[0]:
        return x.new_empty((0, count), dtype=torch.int64)
    x = torch.nan_to_num(x.float(), nan=0.0, posinf=1e18, neginf=-1e18)  # a NaN would end the process inside quickfps
    if gpu.available(x, width=gpu.MAX_FEATURES):
        return gpu.farthest_points(x, count, 0, kept, None if allowed is None else ~allowed)[0]
    if cpu.serves(x):
        return cpu.farthest_points(x, count, kept, allowed)
    start = _single_start(x, count, kept, allowed)
    if start is None:
        plain = x.device.type != "cpu" or _recorded()
        with full_precision(x):
            return (_loop if plain else _product_loop)(x, count, kept, allowed)
    import torch_quickfps

    return torch_quickfps.sample_idx_baseline(x, count, start_idx=start)


def _single_start(x: Tensor, count: int, kept: Tensor | None, allowed: Tensor | None) -> int | None:
    """The token that quickfps may start from; None where it does not fit (see the head of this file)."""
    if x.device.type != "cpu" or _recorded() or x.shape[1] > QUICK_TOKENS or allowed is not None:
        return None
    if not _has_quickfps():
        return None
    if kept is None:
        return 0
    start = int(kept[0].to(torch.uint8).argmax())
    return start if bool((kept.sum(1) == 1).all() & kept[:, start].all()) else None


def _recorded() -> bool:
    """Whether somebody writes down what is done here: then no step may look at the data."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _loop(x: Tensor, count: int, kept: Tensor | None, allowed: Tensor | None) -> Tensor:
    """`farthest_points` on any device, for any masks, without a look at the data."""
    nearest = x.new_full(x.shape[:2], float("inf"))  # squared distance to what is chosen; -1: not to be had (any more)
    if allowed is not None:
        nearest.masked_fill_(~allowed, -1.0)
    tokens = x.shape[1]  # kept ones in ascending order by `topk`, since ONNX knows no stable sort
    first = None if kept is None else (kept * torch.arange(tokens, 0, -1, device=x.device)).topk(count, 1).indices
    forced = None if kept is None else kept.sum(1, keepdim=True)
    picks = []
    for step in range(count):
        pick = nearest.argmax(1, keepdim=True)
        if first is not None and forced is not None:
            pick = torch.where(step < forced, first[:, step : step + 1], pick)
        picks.append(pick)
        chosen = x.gather(1, pick[..., None].expand(-1, -1, x.shape[-1]))
        torch.minimum(nearest, (x - chosen).square_().sum(-1), out=nearest)
        nearest.scatter_(1, pick, -1.0)
    return torch.cat(picks, 1)


def _product_loop(x: Tensor, count: int, kept: Tensor | None, allowed: Tensor | None) -> Tensor:
    """`farthest_points` on a CPU, each step one product: (c, |c|^2, 1) (-2x, 1, |x|^2)^T is every distance to the last pick c.

    A third of `_loop`'s memory traffic. The origin is moved to a token first, so that an offset common to all tokens costs no
    digits; distances are right to about 1e-6 of the largest, and exact for integers below 2^24. The result of a row depends
    neither on the batch nor on the place of a token.
    """
    batch, tokens, width = x.shape
    x = (x - x[:, tokens // 2, None]).clamp_(-1e15, 1e15)  # squares and their sums stay finite
    square = x.square().sum(-1, keepdim=True)
    one = torch.ones_like(square)
    points = torch.cat([-2 * x.mT, one.mT, square.mT], 1)
    centres = torch.cat([x, square, one], -1).view(batch * tokens, width + 2)
    nearest = x.new_full((batch, tokens), torch.finfo(x.dtype).max)
    if allowed is not None:
        nearest.masked_fill_(~allowed, float("-inf"))
    waiting, most = None, 0
    if kept is not None:
        waiting, most = kept.clone(memory_format=torch.contiguous_format), int(kept.sum(1).max())
        nearest.masked_fill_(waiting, float("inf"))  # ahead of all others, in ascending order
    # A step is short: nothing in it makes a tensor, not even a view.
    picks = torch.zeros(count, batch, dtype=torch.int64)
    offset = torch.arange(batch) * tokens
    row = torch.empty_like(offset)
    centre = x.new_empty(batch, 1, width + 2)
    distance = x.new_empty(batch, 1, tokens)
    flat_centre, flat_distance, flat_nearest = centre[:, 0], distance[:, 0], nearest.view(-1)
    for step, pick in enumerate(picks.unbind(0)):
        torch.argmax(nearest, 1, out=pick)
        torch.add(pick, offset, out=row)
        torch.index_select(centres, 0, row, out=flat_centre)
        torch.bmm(centre, points, out=distance)
        torch.minimum(nearest, flat_distance, out=nearest)
        flat_nearest.scatter_(0, row, float("-inf"))
        if waiting is not None and step < most:
            waiting.view(-1).scatter_(0, row, False)
            nearest.masked_fill_(waiting, float("inf"))
    return picks.T.contiguous()


@contextmanager
def without_quickfps() -> Iterator[None]:
    """Our own loops, which pick the same tokens, in place of torch-quickfps: a FLOP counter cannot see into that."""
    global _QUICKFPS
    before, _QUICKFPS = _QUICKFPS, False
    try:
        yield
    finally:
        _QUICKFPS = before


def _has_quickfps() -> bool:
    """Whether torch-quickfps is installed: it has no wheel for some platforms."""
    global _QUICKFPS
    if _QUICKFPS is None:
        _QUICKFPS = importlib.util.find_spec("torch_quickfps") is not None
    return _QUICKFPS


_QUICKFPS: bool | None = None
