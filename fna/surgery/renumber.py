"""Rotary positions without gaps: what is left of a cache closes up towards its end, as if the dropped entries had never been.

Rotary logits depend on differences of positions alone, so that moving each entry up by the number of dropped ones behind it is the
same as numbering the cache from 0 and the next query by its slot, as StreamingLLM and the released SparseVLM do. Later queries and
keys keep the positions that the model gives them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fna.errors import UserError
from fna.kv.contract import Kept

LINEAR = ("default", "linear", "llama3", "yarn")  # kinds of rotary tables whose frequencies do not depend on the length


class Rotary:
    """Turns keys of a decoder further. Raises `UserError` for one whose positions are no plain sequence of turns."""

    def __init__(self, decoder: Any) -> None:
        self.table: Any = getattr(decoder, "rotary_emb", None)
        rope = getattr(decoder.config, "rope_parameters", None) or {}
        self.apply: Any = vars(sys.modules[type(decoder.layers[0].self_attn).__module__]).get("apply_rotary_pos_emb")
        if self.table is None or self.apply is None or rope.get("rope_type", "default") not in LINEAR or "mrope_section" in rope:
            raise UserError(f"kv.positions=renumbered: {decoder.config.model_type} has no plain rotary positions; leave it out.")

    def turn(self, k: Tensor, by: Tensor) -> Tensor:
        """Keys ``[B, G, n, d]`` turned ``by`` so many positions, int64 ``[B, G, n]``."""
        flat = k.flatten(0, 1)[:, None].float()
        cos, sin = self.table(flat, by.flatten(0, 1))
        scale = getattr(self.table, "attention_scaling", 1.0)  # the keys have it already
        turned: Tensor = self.apply(flat, flat, cos / scale, sin / scale)[1]
        return turned[:, 0].unflatten(0, k.shape[:2]).to(k.dtype)


def renumbered(kept: Kept, before: Kept, rotary: Rotary) -> Kept:
    """``kept``, of which each key is moved up by the number of entries of ``before`` behind it that are gone."""
    by = _behind(before, kept.positions) - _behind(kept, kept.positions)
    if not bool((by > 0).any()):
        return kept
    return replace(kept, k=rotary.turn(kept.k, by.clamp_min(0)))


def closed_up(left: Tensor, there: Tensor, valid: Tensor) -> Tensor:
    """Columns ``left`` int64 ``[B, n]``, of which ``there`` count, moved up by those of ``valid`` bool ``[B, N]`` that are gone."""
    columns = torch.where(there, left, -1).sort(-1).values
    behind = left.shape[1] - torch.searchsorted(columns, left.contiguous(), right=True)
    whole = valid.long().sum(-1, keepdim=True) - valid.long().cumsum(-1)
    return left + (whole.gather(1, left) - behind).clamp_min(0)


def _behind(entries: Kept, columns: Tensor) -> Tensor:
    """How many of the entries that count stand behind each of ``columns`` int64 ``[B, G, n]``."""
    held = entries.positions if entries.valid is None else entries.positions.masked_fill(~entries.valid, -1)
    ordered = held.sort(-1).values
    return ordered.shape[-1] - torch.searchsorted(ordered, columns.contiguous(), right=True)
