"""Softmax attention where one side is short, landmarks over tokens and tokens over landmarks, by the way that is fastest here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.kernels import cpu, differentiated, paths


def few_queries(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None, pairs: Tensor | None = None) -> Tensor:
    """Attention of a few queries ``[B, H, M, d]`` over tokens ``[B, H, N, d]``, ``bias`` ``[B, N]`` and ``pairs``
    ``[B or 1, H or 1, M, N]`` added; in float32 where our kernels make it.
    """
    ways = _ways(_kernel_of_few_queries, q, k, v, bias, pairs)
    return ways[paths.way("few_queries", k, q, ways)](q, k, v, scale, bias, pairs)


def few_keys(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None, pairs: Tensor | None = None) -> Tensor:
    """Attention of tokens ``[B, H, N, d]`` over a few keys ``[B, H, M, d]``, ``bias`` ``[B, M]`` and ``pairs``
    ``[B or 1, H or 1, N, M]`` added.
    """
    ways = _ways(_kernel_of_few_keys, q, k, v, bias, pairs)
    return ways[paths.way("few_keys", q, k, ways)](q, k, v, scale, bias, pairs)


def both_by_kernels(q: Tensor, k: Tensor, v: Tensor, q_few: Tensor, k_few: Tensor) -> bool:
    """Whether our kernels are the way of `few_queries` and of `few_keys`, nothing being added and answers in v's dtype."""
    over_tokens = _ways(_kernel_of_few_queries, q_few, k, v, None, None)
    over_few = _ways(_kernel_of_few_keys, q, k_few, k_few, None, None)
    chosen = paths.way("few_queries", k, q_few, over_tokens), paths.way("few_keys", q, k_few, over_few)
    return chosen == ("kernels", "kernels")


def _ways(
    kernel: paths.Short, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, pairs: Tensor | None
) -> dict[paths.Way, paths.Short]:
    """Those that can be gone, the one to take where nothing is timed first."""
    ways: dict[paths.Way, paths.Short] = {"kernels": kernel} if cpu.attends(q, k, v, bias, pairs) else {}
    ways["fused"] = fused
    if bias is None and pairs is None and not differentiated(q, k, v):
        ways["products"] = products
    return ways


def _kernel_of_few_queries(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None, pairs: Tensor | None = None
) -> Tensor:
    return cpu.few_queries(q.float(), k, v, scale, bias, pairs)


def _kernel_of_few_keys(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None, pairs: Tensor | None = None
) -> Tensor:
    return cpu.few_keys(q, k.float(), v.float(), scale, bias, pairs)


def fused(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None, pairs: Tensor | None = None) -> Tensor:
    """Torch's own, with what is added as a mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(bias, pairs, q), scale=scale)


def products(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: None = None, pairs: None = None) -> Tensor:
    """Two products with the weights between them in memory, those of one head at a time. Nothing can be added."""
    heads = zip((q * scale).unbind(1), k.mT.unbind(1), v.unbind(1), strict=True)
    return torch.stack([(queries @ keys).softmax(-1) @ values for queries, keys, values in heads], 1)


def _mask(bias: Tensor | None, pairs: Tensor | None, q: Tensor) -> Tensor | None:
    """What is added over keys, and over queries and keys, as the fused kernel takes it: in q's dtype."""
    if bias is None:
        return pairs
    over_keys = bias[:, None, None, :].to(q.dtype)
    return over_keys if pairs is None else pairs + over_keys
