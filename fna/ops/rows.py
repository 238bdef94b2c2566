"""Attention weights of a few query rows, recomputed beside a fused attention that never shows them.

Axes as in ``fna.ops.contract``; R is the number of chosen rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fna.ops.bias import rows_of
from fna.ops.contract import Site, Unsupported
from fna.ops.exact import visibility

CHUNK = 256


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of x ``[B, H, N, d]`` at ``rows`` int64 ``[B, R]`` -> ``[B, H, R, d]``.

    On a CPU image by image, because ``index_select`` copies runs of memory where ``gather`` goes number by number; elsewhere in one
    launch, whatever the batch; so too while a graph is traced, which must not know the batch.
    """
    if x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_exporting() or not x.shape[0]:
        return x.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
    images = zip(x.transpose(1, 2), rows, strict=True)
    return torch.stack([tokens.index_select(0, chosen) for tokens, chosen in images]).transpose(1, 2).contiguous()


def row_logits(q: Tensor, k: Tensor, site: Site, rows: Tensor) -> Tensor:
    """Logits of the queries at ``rows`` int64 ``[B, R]``, every mask of the site applied -> ``[B, H, R, Nk]``.

    At least float32. A key that a row may not see has -inf.
    """
    logits = gather_rows(q, rows) @ k.transpose(-1, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * site.scale
    mask = visibility(site, rows, rows_of(site.dense, rows, q.shape[2]), k.shape[2], logits.dtype)
    if mask is None:
        return logits
    return logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask


def softmax_rows(logits: Tensor) -> Tensor:
    """Softmax over the last axis; a row that sees nothing has zero weights, not NaN."""
    blind = torch.isneginf(logits).all(-1, keepdim=True)
    return logits.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)


def attention_rows(q: Tensor, k: Tensor, site: Site, rows: Tensor) -> Tensor:
    """Attention weights of the queries at ``rows`` int64 ``[B, R]`` -> ``[B, H, R, Nk]``, at least float32."""
    return softmax_rows(row_logits(q, k, site, rows))


def cls_attention(q: Tensor, k: Tensor, site: Site) -> Tensor:
    """What CLS (token 0) gives to each key, mean over heads -> ``[B, Nk]``. Raises `Unsupported` where there is no CLS."""
    if site.tokens.prefix < 1:
        raise Unsupported(f"this model has no CLS token (block {site.layer}): choose a rule that judges norms.")
    return attention_rows(q, k, site, q.new_zeros(q.shape[0], 1, dtype=torch.long)).mean(1)[:, 0]


def attention_chunks(q: Tensor, k: Tensor, site: Site, size: int = CHUNK) -> Iterator[tuple[Tensor, Tensor]]:
    """All rows, ``size`` at a time, in order: pairs of row numbers ``[R]`` and weights ``[B, H, R, Nk]``."""
    for rows in torch.arange(q.shape[2], device=q.device).split(size):
        yield rows, attention_rows(q, k, site, rows.expand(q.shape[0], -1))
