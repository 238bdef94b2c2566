"""Exact softmax attention through PyTorch's fused kernel, for whole sequences and for chosen query rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.bias import rows_of
from fna.ops.contract import Site, not_traced, refuse, whole
from fna.ops.kernels import sage


@dataclass(frozen=True)
class Exact:
    """Fused softmax attention; honours every field of the site. A query that may see no key gets zeros.

    k and v may have fewer heads, each for a run of q's: the kernel reads them in place. ``kernel``: torch's own, or "sage", which
    refuses ``keys``, ``key_bias``, ``dense`` and an offset of the queries; sequences too short for it go through torch's.
    """

    kernel: Literal["torch", "sage"] = "torch"
    version: ClassVar[int] = 1
    grouped: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kernel == "sage":
            sage.check()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """Attend from q ``[B, H, Nq, d]`` to k, v ``[B, H, Nk, d]``; out ``[B, H, Nq, d]`` in q's dtype."""
        with site.clock("attention"):
            if self.kernel == "sage":
                refuse(self, site, "keys", "key_bias", "dense", *(("causal",) if q.shape[2] != k.shape[2] else ()))
                if min(q.shape[2], k.shape[2]) >= sage.FEWEST:
                    return sage.attend(q, k, v, site).to(q.dtype)
            fewer = whole(k.shape[1]) != whole(q.shape[1])
            if q.device.type != "cpu" and _only_sizes(site):
                out = with_channel(q, k, v, site)
            elif _plain_causal(q, k, site):
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=site.scale, enable_gqa=fewer)
            elif site.dense is not None and not isinstance(site.dense, Tensor):
                out = _in_runs(q, k, v, site, fewer)
            else:
                positions = torch.arange(q.shape[-2], device=q.device)
                mask = visibility(site, positions, site.dense, k.shape[-2], q.dtype)
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=site.scale, enable_gqa=fewer)
            return out.to(q.dtype)


RUN = 512  # queries whose biases are there at once


def _in_runs(q: Tensor, k: Tensor, v: Tensor, site: Site, fewer: bool) -> Tensor:
    """Fused attention a run of queries at a time, so that relative positions never stand there as N x N."""
    parts = []
    for positions in torch.arange(whole(q.shape[-2]), device=q.device).split(RUN):
        mask = visibility(site, positions, rows_of(site.dense, positions, q.shape[-2]), k.shape[-2], q.dtype)
        parts.append(
            F.scaled_dot_product_attention(q.index_select(2, positions), k, v, attn_mask=mask, scale=site.scale, enable_gqa=fewer)
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def exact_rows(out: Tensor, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, site: Site) -> Tensor:
    """Write exact attention for chosen query rows over ``out`` ``[B, H, Nq, d]``, an approximation's result.

    ``rows``: int64 ``[R]`` (the same for every image) or ``[B, R]``, or bool ``[Nq]`` or ``[B, Nq]`` (images may choose unlike
    numbers of rows). Every field of the site is honoured; memory O(R N). Without gradients ``out`` is changed in place.
    """
    if rows.dtype == torch.bool:
        return _exact_ragged(out, q, k, v, rows, site)
    if rows.dim() == 1:
        rows = rows.expand(q.shape[0], -1)
    return _scatter(out, rows, _attend_rows(q, k, v, rows, site))


def visibility(site: Site, positions: Tensor, dense: Tensor | None, keys: int, dtype: torch.dtype) -> Tensor | None:
    """The mask that the site asks for, for queries at ``positions`` (``[R]`` or ``[B, R]``) over ``keys`` keys.

    None where all is visible; bool (True: seen) where nothing is added to the logits; additive in ``dtype`` otherwise. Broadcasts
    to ``[B, H, R, keys]``. ``dense`` holds the rows of ``site.dense`` that belong to the positions.
    """
    seen = None if site.keys is None else site.keys[:, None, None, :]
    if site.causal and not _all_past(site, keys, positions):
        past = torch.arange(keys, device=positions.device) <= (positions + site.q_offset).unsqueeze(-1)  # [(B,) R, keys]
        past = past if past.dim() == 2 else past[:, None]
        seen = past if seen is None else seen & past
    if site.key_bias is None and dense is None:
        return seen
    added = [
        term.to(dtype) for term in (None if site.key_bias is None else site.key_bias[:, None, None, :], dense) if term is not None
    ]
    total = added[0] if len(added) == 1 else added[0] + added[1]
    return total if seen is None else torch.where(seen, total, float("-inf"))


def with_channel(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """Attention with the tokens' finite ``key_bias`` as a channel of q and k, because flash kernels take no mask.

    A bias per key is of rank 1: q gets a 1, k bias / scale, once rounded and once what the rounding lost. v is widened alike (for
    unlike widths torch leaves the fused kernel without notice), to a width that is a multiple of 8. On a CPU the fused kernel takes
    a mask of one row at 1.05 times the time of none, and the channel costs 1.2 times (docs/reducers.md): only others use it.
    """
    assert site.key_bias is not None
    width = q.shape[-1]
    room = -(width + 2) % 8 + 2
    bias = site.key_bias.to(torch.promote_types(q.dtype, torch.float32)) / site.scale
    rounded = bias.to(q.dtype)
    added = torch.stack([rounded, (bias - rounded).to(q.dtype)], -1)[:, None].expand(-1, k.shape[1], -1, -1)
    wide_q = torch.cat([q, torch.ones_like(q[..., :1]).expand(*q.shape[:-1], room)], -1)
    wide_k = torch.cat([k, F.pad(added, (0, room - 2))], -1)
    fewer = whole(k.shape[1]) != whole(q.shape[1])
    out = F.scaled_dot_product_attention(wide_q, wide_k, F.pad(v, (0, room)), scale=site.scale, enable_gqa=fewer)
    return out[..., :width]


def _only_sizes(site: Site) -> bool:
    """Whether the site asks for nothing but the sizes of merged tokens, whose logarithms are finite."""
    plain = site.keys is None and site.dense is None and not site.causal
    return plain and site.key_bias is not None and site.key_bias is site.tokens.bias


def _plain_causal(q: Tensor, k: Tensor, site: Site) -> bool:
    """Whether the kernel's own causal flag, which needs no mask in memory, says all that the site says."""
    alone = site.keys is None and site.key_bias is None and site.dense is None
    return alone and site.causal and site.q_offset == 0 and q.shape[-2] == k.shape[-2] and q.shape[-2] > 1


def _all_past(site: Site, keys: int, positions: Tensor) -> bool:
    """While decoding, one query stands after every key: causality hides nothing."""
    return positions.shape[-1] == 1 and positions.dim() == 1 and site.q_offset >= keys - 1


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, site: Site) -> Tensor:
    """Exact attention of the queries at ``rows`` ``[B, R]``: ``[B, H, R, dv]``."""
    mask = visibility(site, rows, rows_of(site.dense, rows, q.shape[-2]), k.shape[-2], q.dtype)
    some = q.gather(2, rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1]))
    return F.scaled_dot_product_attention(some, k, v, attn_mask=mask, scale=site.scale)


def _exact_ragged(out: Tensor, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, site: Site) -> Tensor:
    """`exact_rows` for a bool mask: as many rows as the fullest image has; elsewhere the surplus is written back unchanged."""
    not_traced("which rows are exact", rows)
    rows = rows.expand(q.shape[0], -1)
    most = int(rows.sum(1).max()) if len(rows) else 0
    if most == 0:
        return out
    index = torch.argsort(rows.logical_not().to(torch.uint8), dim=1, stable=True)[:, :most]
    wanted = rows.gather(1, index)[:, None, :, None]
    before = out.gather(2, index[:, None, :, None].expand(-1, out.shape[1], -1, out.shape[-1]))
    return _scatter(out, index, torch.where(wanted, _attend_rows(q, k, v, index, site).to(out.dtype), before))


def _scatter(out: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """``out`` with ``values`` ``[B, H, R, dv]`` at ``rows`` ``[B, R]``; in place unless autograd may still need ``out``."""
    where = rows[:, None, :, None].expand(-1, out.shape[1], -1, out.shape[-1])
    values = values.to(out.dtype)
    if out.requires_grad or values.requires_grad:
        return out.scatter(2, where, values)
    return out.scatter_(2, where, values)
