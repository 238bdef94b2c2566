"""Bipartite matching of tokens by the likeness of their keys, after ToMe (Bolya et al. 2023, arXiv 2210.09461)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.contract import Tokens, whole
from fna.reduce.joining import Joining, joining, patches, rows


def likeness(keys: Tensor) -> Tensor:
    """Head-mean keys ``[B, N, d]`` of length 1: their products are cosines."""
    return F.normalize(keys, dim=-1)


def matched(metric: Tensor, a: Tensor, b: Tensor, r: int, order: Tensor | None = None) -> Joining | None:
    """Each token of ``a`` int64 ``[B, m]`` finds the most alike of ``b`` ``[B, n]``; the ``r`` most alike pairs join.

    ``metric`` ``[B, N, d]`` of length 1. Several may go into one; of equal pairs the first. ``order``: as in `joining`. None where
    there is nothing to join.
    """
    r = min(r, whole(a.shape[1])) if whole(b.shape[1]) else 0
    if r < 1:
        return None
    best, host = (rows(metric, a) @ rows(metric, b).transpose(1, 2)).max(-1)
    chosen = best.argsort(dim=1, descending=True, stable=True)[:, :r]
    return joining(a.gather(1, chosen), b.gather(1, host.gather(1, chosen)), metric.shape[1], order)


def by_parity(metric: Tensor, tokens: Tokens, r: int) -> Joining | None:
    """ToMe's: patches at even places of the sequence look among those at odd ones; at most half of the patches go.

    As in the released code, what is left of the even places comes before all odd ones: the next block pairs them so.
    """
    batch, count = metric.shape[0], whole(metric.shape[1])
    first, last = patches(tokens, count)
    places = torch.arange(first, last, device=metric.device).expand(batch, -1)
    even, odd = first % 2, 1 - first % 2
    order = torch.arange(count, device=metric.device)
    order = order + count * ((order >= first) & (order % 2 == 1)) + 2 * count * (order >= last)
    return matched(metric, places[:, even::2], places[:, odd::2], min(r, (last - first) // 2), order)
