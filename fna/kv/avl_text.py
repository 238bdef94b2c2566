"""A-VL's window over the text after the image, per layer and key head: which entries leave it.

All scores are over the text's own rows and columns of the attention, mean over the query heads of a group. T counts all text after
the image so far, evicted or not; B = max(round((1 - rate) T), init) entries stay. The text before the image always stays.

- ``h2o``: what all text rows gave so far; the last 30 % of B and the best of the rest.
- ``history``: each row adds what it gave less its own ``rate``-quantile, a new token starts with what it gave itself; the last half
  of B and the best of the rest. The quantile is over earlier keys in the prompt, over the whole row while answering.
- ``direct``: the B best of the last row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fna.kv.contract import LayerState
from fna.kv.select import SLAB, best, ranks, weights

Rule = Literal["none", "h2o", "history", "direct"]
RECENT = {"h2o": 0.3, "history": 0.5}


@dataclass(frozen=True)
class TextWindow:
    """``state.memo`` holds the scores ("text" ``[B, G, N]``, along with the entries) and the true length ("said" ``[B, 1]``)."""

    rule: Rule
    rate: float
    init: int

    def leaving(self, state: LayerState) -> Tensor:
        """Entries that leave, bool ``[B, G, N]``; updates the scores."""
        text = self._text(state)
        rows = state.asked > _end(state)
        said = state.memo.get("said", torch.zeros_like(rows[:, :1], dtype=torch.long)) + rows.sum(1, keepdim=True)
        state.memo["said"] = said
        scores = self._scores(state, text, rows)
        state.memo["text"] = scores
        room = (said.double() * (1 - self.rate)).round().long().clamp_min(self.init)  # [B, 1], for every head
        held = text.sum(-1)
        last = room - (room.double() * (1 - RECENT.get(self.rule, 0.0))).long()
        recent = text & (ranks(text) >= (held - last)[..., None])
        stays = recent | best(scores, text & ~recent, (room - last).expand_as(held))
        return text & ~stays

    def _text(self, state: LayerState) -> Tensor:
        return state.valid & (state.entries.positions > _end(state)[:, None])

    def _scores(self, state: LayerState, text: Tensor, rows: Tensor) -> Tensor:
        old = state.memo.get("text")
        scores = torch.zeros(text.shape, device=text.device)
        if old is not None:
            scores[:, :, : old.shape[2]] = old
        columns = torch.where(rows, state.asked, -1)
        for q, part in zip(state.q.split(SLAB, 2), columns.split(SLAB, 1), strict=True):
            given = weights(state, q, part).mean(2) * text[:, :, None]  # [B, G, w, N]
            if self.rule == "h2o":
                scores += given.sum(2)
            elif self.rule == "direct":
                # Rows without a query leave the last row's scores alone.
                for row, asked in zip(given.unbind(2), part.unbind(1), strict=True):
                    scores = torch.where((asked >= 0)[:, None, None], row, scores)
            else:
                scores = self._history(state, scores, given, part, text)
        return scores

    def _history(self, state: LayerState, scores: Tensor, given: Tensor, part: Tensor, text: Tensor) -> Tensor:
        positions = state.entries.positions
        for row, asked in zip(given.unbind(2), part.unbind(1), strict=True):
            own = positions == asked[:, None, None]
            earlier = text & (positions < asked[:, None, None])
            among = earlier if state.step == 0 else earlier | own
            low = torch.nanquantile(row.masked_fill(~among, float("nan")), self.rate, -1)
            low = low.nan_to_num(0)[..., None]
            scores = torch.where(earlier, scores + row - low, torch.where(own, row, scores))
        return scores


def _end(state: LayerState) -> Tensor:
    """The last column of each row's image, ``[B, 1]``; -1 where there is none, so that all is text."""
    image = state.prompt.image
    columns = torch.arange(image.shape[1], device=image.device)
    return torch.where(image, columns, -1).amax(1, keepdim=True)
