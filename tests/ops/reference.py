"""Slow, plain float64 versions of what the package computes: the oracles of these tests."""

from __future__ import annotations

import torch
from torch import Tensor


def random_qkv(
    batch: int = 2, heads: int = 3, tokens: int = 30, width: int = 16, dtype: torch.dtype = torch.float64, seed: int = 0
):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, heads, tokens, width, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Softmax attention written out; ``bias`` broadcasts to the logits."""
    logits = scale * q.double() @ k.double().mT
    return (logits if bias is None else logits + bias).softmax(-1) @ v.double()


def newton_inverse(a: Tensor, steps: int) -> Tensor:
    """The paper's iteration on one matrix, as printed."""
    eye = torch.eye(len(a), dtype=a.dtype)
    z = a.T / a.sum(0).max()
    for _ in range(steps):
        y = a @ z
        z = 0.25 * z @ (13 * eye - y @ (15 * eye - y @ (7 * eye - y)))
    return z


def nystrom(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, steps: int | None, bias: Tensor | None = None) -> Tensor:
    """Fast Nyström attention, one image and head at a time; ``steps`` None: the true inverse. ``bias`` ``[B, N]`` on the keys."""
    out = torch.empty_like(q, dtype=torch.float64)
    for b in range(q.shape[0]):
        added = torch.zeros(k.shape[2], dtype=torch.float64) if bias is None else bias[b].double()
        for h in range(q.shape[1]):
            queries, keys, values = q[b, h].double(), k[b, h].double(), v[b, h].double()
            i = index[b]
            block = (scale * queries[i] @ keys[i].T + added[i]).softmax(-1)
            summary = (scale * queries[i] @ keys.T + added).softmax(-1) @ values
            inner = torch.linalg.solve(block, summary) if steps is None else newton_inverse(block, steps) @ summary
            out[b, h] = (scale * queries @ keys[i].T + added[i]).softmax(-1) @ inner
    return out


def farthest(x: Tensor, count: int, kept: list[int], allowed: list[int]) -> list[int]:
    """Greedy farthest points of one image ``x`` ``[N, D]`` by the definition."""
    chosen = sorted(kept)[:count]
    while len(chosen) < min(count, len(allowed)):
        rest = [token for token in allowed if token not in chosen]
        if not chosen:
            chosen.append(rest[0])
            continue
        distance = [min(float((x[token] - x[c]).square().sum()) for c in chosen) for token in rest]
        chosen.append(rest[distance.index(max(distance))])
    return chosen
