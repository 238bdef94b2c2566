"""H2O (Zhang et al. 2023, arXiv 2306.14048; code FMInference/H2O, MIT): heavy hitters of all attention so far, and the most recent.

A key's score is the sum of what all queries gave it, over the query heads of its group: those of the prompt first, then one
more row a step. As many entries stay as ``budget`` image tokens and all text are; where the budget is a share, that grows with
the length in proportion. ``recent`` of them are the latest, the others those of the earlier ones with the highest score.
Selection comes after a step's attention, so the prompt is computed exactly. Every row of the prompt is needed: it recomputes N
x N weights in slabs, and is slower for it. Original positions stay, as in the authors' simulation; their evicting variant
numbers the cache anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fna.kv.contract import Kept, LayerState, Positions
from fna.kv.select import all_weights, best, lay_out, places, ranks, total_budget
from fna.values import Budget, Share


@dataclass(frozen=True)
class H2O:
    """``budget``: of the image tokens. ``recent``: share of what stays that is the most recent."""

    budget: Budget = 0.25
    recent: Share = 0.5
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def keep(self, state: LayerState) -> Kept:
        """Heavy hitters of the prompt."""
        held, room = state.valid.sum(-1), total_budget(self.budget, state)
        state.memo["room"], state.memo["share"] = room, room / held
        state.memo["length"] = held
        state.memo["scores"] = _received(state)
        return self._evicted(state)

    def step(self, state: LayerState) -> Kept:
        """The same after one more row (or those of a turn)."""
        new = state.q.shape[2]
        scores = state.memo["scores"]
        state.memo["scores"] = torch.cat([scores, scores.new_zeros((*scores.shape[:2], new))], 2) + _received(state)
        state.memo["length"] = state.memo["length"] + state.valid[:, :, -new:].sum(-1)
        return self._evicted(state)

    def _evicted(self, state: LayerState) -> Kept:
        # Half a token of slack: a share times a length is a whole number of tokens only up to rounding.
        room = (state.memo["share"] * state.memo["length"] + 0.5).long()
        if self.budget > 1:  # a count stays what it is, but a row of which nothing went keeps everything
            room = torch.where(state.memo["share"] == 1, room, state.memo["room"])
        valid, held = state.valid, state.valid.sum(-1)
        last = (room * self.recent).long()
        recent = valid & (ranks(valid) >= (held - last)[..., None])
        mask = recent | best(state.memo["scores"], valid & ~recent, room - last)
        if bool((mask == valid).all()):
            return state.entries
        index, there = places(mask)
        state.memo["scores"] = state.memo["scores"].gather(2, index)
        return lay_out(state.entries, index, there)


def _received(state: LayerState) -> Tensor:
    """What the queries of this forward gave to each entry: ``[B, G, N]``."""
    return torch.stack([part.sum((2, 3)) for part in all_weights(state)]).sum(0)
