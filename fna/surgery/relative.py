"""Seams of attention modules with relative positions: what is added to the logits is handed over as something to be asked.

timm's BEiT, its ViTs with relative positions, and SAM's encoder. Rows and columns are made where an op wants them (`fna.ops.bias`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fna.ops.bias import Decomposed, Indexed, PairBias, Table
from fna.surgery.seams import Seam, dropped, merge_heads, project, scaled


class RelativeSeam(Seam):
    """timm's BEiT attention and ``RelPosAttention``; positions of the block's own, shared by all blocks, or both."""

    unheard = "attn_drop"

    def changed(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None, shared_rel_pos: Tensor | None = None) -> Tensor:
        """``x`` ``[B, N, D]`` -> ``[B, N, D]``; a shared table is ``[(1,) heads, N, N]``."""
        m = self.module
        q, k, v = project(m, x)
        if hasattr(m, "q_norm"):
            q, k = m.q_norm(q), m.k_norm(k)
        shared = shared_rel_pos if shared_rel_pos_bias is None else shared_rel_pos_bias
        shared = shared if shared is None or shared.dim() == 4 else shared[None]
        q, scale = scaled(m, q)
        out = self.attend(q, k, v, scale=scale, dropout=dropped(m), dense=self.positions(x.shape[1], shared))
        return m.proj_drop(m.proj(merge_heads(out)))

    def positions(self, count: int, shared: Tensor | None) -> PairBias | None:
        """What is added to the logits. A module of positions (RelPosMlp) computes its table, and its table stands."""
        m = self.module
        rel_pos = getattr(m, "rel_pos", None)
        holder: Any = m if hasattr(m, "relative_position_bias_table") else rel_pos
        table = getattr(holder, "relative_position_bias_table", None)
        if table is None and rel_pos is not None:
            return Table(rel_pos.get_bias())
        if table is None:
            return None if shared is None else Table(shared)
        places = holder.relative_position_index
        own = Indexed(table, places if places.dim() == 2 else places.unflatten(0, (count, count)))
        if shared is None or holder is rel_pos:  # RelPosAttention: its own goes before a shared one
            return own
        return Table(shared + own.rows(torch.arange(count, device=table.device)))


class SamSeam(Seam):
    """timm's attention of SAM's encoder, on windows or whole images ``[B, rows, columns, D]``."""

    unheard = "attn_drop"

    def changed(self, x: Tensor) -> Tensor:
        """``x`` ``[B, rows, columns, D]`` -> the same."""
        m, (rows, columns) = self.module, x.shape[1:3]
        q, k, v = project(m, x.flatten(1, 2))
        q, k = m.q_norm(q), m.k_norm(k)
        fields: dict[str, Any] = {}
        if m.use_rel_pos:
            fields["dense"] = self.positions(q.unflatten(2, (rows, columns)))
        elif m.rope is not None:
            q, k = rotate(q, m.rope.get_embed()), rotate(k, m.rope.get_embed())
        q, scale = scaled(m, q)
        out = self.attend(q, k, v, scale=scale, dropout=dropped(m), **fields)
        return m.proj_drop(m.proj(merge_heads(out))).unflatten(1, (rows, columns))

    def positions(self, q: Tensor) -> Decomposed:
        """What each query ``[B, heads, rows, columns, d]`` adds for a key's row and for its column."""
        from timm.models.vision_transformer_sam import get_rel_pos

        m, (rows, columns) = self.module, q.shape[2:4]
        down, across = get_rel_pos(rows, rows, m.rel_pos_h), get_rel_pos(columns, columns, m.rel_pos_w)  # [side, side, d]
        told_down = q @ down.mT  # [rows, d, rows] against [B, heads, rows, columns, d]
        told_across = (q.transpose(2, 3) @ across.mT).transpose(2, 3)
        return Decomposed(told_down.flatten(2, 3), told_across.flatten(2, 3))


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotary positions on all tokens: SAM has no prefix."""
    from timm.layers import apply_rot_embed_cat

    return apply_rot_embed_cat(x, rope).to(x.dtype)
