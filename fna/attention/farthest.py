"""Farthest-point sampling of tokens: batched, seeded by every kept token, never the same token twice.

Two back ends make the same picks, both from direct distances (no |x|^2 + |y|^2 - 2xy, whose rounding would let a coincident
point pass for a far one):

- ``torch_quickfps.sample_idx_baseline`` on the CPU, where one token is the start and no row runs short. Its tree versions are
  never used: they repeat a point once only coincident ones are left, and with a height of 8 they take 6 times as long.
- our loop everywhere else: one ``[B, N]`` buffer of distances to what is chosen, updated in place.

Medians of 25 turns in milliseconds, 64 landmarks, 2 threads of a shared machine (scripts/time_sampling.py):

TABLE

So by the number of tokens, not by the batch: the same image gets the same landmarks alone and in a batch.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

QUICK_TOKENS = 2048  # above this the plain op, which uses one thread a row, falls behind our loop


@torch.no_grad()
def farthest_points(x: Tensor, count: int, kept: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
    """Greedy farthest points of ``x`` ``[B, N, D]``: int64 ``[B, count]``, kept tokens first, in ascending order.

    ``kept`` and ``allowed`` bool ``[B, N]`` (kept within allowed; None: nothing kept, all allowed); ``count <= N``. The next
    token is the allowed one farthest from all chosen ones, the lowest index among equals; with nothing kept the first allowed
    token is the start. Entries beyond a row's supply are meaningless.
    """
    x = torch.nan_to_num(x.float(), nan=0.0, posinf=1e18, neginf=-1e18)  # a NaN would end the process inside quickfps
    start = _single_start(x, count, kept, allowed)
    if start is None:
        return _loop(x, count, kept, allowed)
    import torch_quickfps

    return torch_quickfps.sample_idx_baseline(x, count, start_idx=start)


def _single_start(x: Tensor, count: int, kept: Tensor | None, allowed: Tensor | None) -> int | None:
    """The token that quickfps may start from; None where it does not fit (see the head of this file)."""
    if x.device.type != "cpu" or x.shape[1] > QUICK_TOKENS or allowed is not None or torch.compiler.is_compiling():
        return None
    if not _has_quickfps():
        return None
    if kept is None:
        return 0
    start = int(kept[0].to(torch.uint8).argmax())
    return start if bool((kept.sum(1) == 1).all() & kept[:, start].all()) else None


def _loop(x: Tensor, count: int, kept: Tensor | None, allowed: Tensor | None) -> Tensor:
    """`farthest_points` on any device, for any masks, without a look at the data."""
    nearest = x.new_full(x.shape[:2], float("inf"))  # squared distance to what is chosen; -1: not to be had (any more)
    if allowed is not None:
        nearest.masked_fill_(~allowed, -1.0)
    first = None if kept is None else torch.argsort(kept.logical_not().to(torch.uint8), dim=1, stable=True)[:, :count]
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


def _has_quickfps() -> bool:
    """Whether torch-quickfps is installed: it has no wheel for some platforms."""
    global _QUICKFPS
    if _QUICKFPS is None:
        _QUICKFPS = importlib.util.find_spec("torch_quickfps") is not None
    return _QUICKFPS


_QUICKFPS: bool | None = None
