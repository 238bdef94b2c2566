"""A-VL (arXiv 2409.14846, AAAI 2025; code 2147483647-2/A-VL, no licence): the image in three sets, the text in a window.

The importance of an image token in a layer is what the last token gives it, mean over heads. Each part alone or with the others:

- ``vision``: after the prompt the best ``(1 - rate) N`` image tokens stay in each layer, the secondary set; of these the best
  ``(1 - compute_rate) N``, the core, are attended to. Every ``update_interval`` forwards the whole secondary set is, and the core
  is chosen anew from that row. 0 or less: all that stays takes part always. - ``prefill_filter``: before that block the best ``(1
  - prefill_filter_rate) N`` image tokens go on, as in FastV. - ``text``: of the text after the image, ``max((1 - text_rate) T,
  text_init)`` entries stay per head (`fna.kv.avl_text`).

N is the image as it came, T all text after it so far. Here what is left out of the core is really skipped: it lies in front of the
cache, outside the slice that the kernel is given, where the release adds -max to a full cache; any batch; original positions. Kept
from the release: a filter rate above ``rate`` leaves fewer than the secondary size, here without failing. Not kept: the start of
the text computed from the filtered length in layers that were not filtered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fna.errors import UserError
from fna.kv.avl_text import Rule, TextWindow
from fna.kv.contract import Block, Kept, LayerState, Stay
from fna.kv.pruned import asked_last, staying
from fna.kv.select import best, check_block, lay_out, places
from fna.values import Count, Share


@dataclass(frozen=True)
class AVL:
    """See the head of this file. ``prefill_filter`` None and ``text`` none: that part is off."""

    vision: bool = True
    rate: Share = 0.5
    compute_rate: Share = 0.6
    update_interval: int = 3
    prefill_filter: Count | None = None
    prefill_filter_rate: Share = 0.5
    text: Rule = "none"
    text_rate: Share = 0.5
    text_init: Count = 20
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.vision and self.compute_rate < self.rate:
            raise UserError(
                f"kv.compute_rate={self.compute_rate}: the core is part of what stays; give at least kv.rate={self.rate}."
            )

    def check(self, depth: int) -> None:
        """Raise `UserError` for a decoder of ``depth`` blocks that has no such block."""
        check_block("kv.prefill_filter", self.prefill_filter, depth)

    def prune(self, block: Block) -> Stay | None:
        """The prefill filter."""
        if block.layer != self.prefill_filter or block.before is None:
            return None
        count = (block.prompt.image.sum(-1).double() * (1 - self.prefill_filter_rate)).long()
        return staying(block, asked_last(block.before), count)

    def keep(self, state: LayerState) -> Kept:
        """The secondary set, its core, and the text's window."""
        mask = state.valid & (~state.image | self._secondary(state))
        return self._arranged(state, self._windowed(state, mask), again=True)

    def step(self, state: LayerState) -> Kept:
        """The text's window moves on; in every ``update_interval``-th forward the core is chosen anew."""
        mask = self._windowed(state, state.valid)
        again = self.vision and self.update_interval > 0 and state.step % self.update_interval == 0
        return self._arranged(state, mask, again)

    def _secondary(self, state: LayerState) -> Tensor:
        """The image entries that stay, bool ``[B, G, N]``."""
        return self._best(state, self.rate) if self.vision else state.image

    def _best(self, state: LayerState, rate: float) -> Tensor:
        """The ``(1 - rate) N`` image entries of the highest score, the same in every head."""
        count = (state.prompt.image.sum(-1).double() * (1 - rate)).long()
        return best(asked_last(state), state.image[:, 0], count)[:, None].expand_as(state.image)

    def _windowed(self, state: LayerState, mask: Tensor) -> Tensor:
        """``mask`` without the text that falls out of the window."""
        if self.text == "none":
            return mask
        return mask & ~TextWindow(self.text, self.text_rate, self.text_init).leaving(state)

    def _arranged(self, state: LayerState, mask: Tensor, again: bool) -> Kept:
        """The entries of ``mask``, those outside the core in front; how many of them the next forward skips."""
        skips = self.vision and self.update_interval > 0
        whole_next = skips and (state.step + 1) % self.update_interval == 0
        entries, memo = state.entries, state.memo
        if again or not bool((mask == state.valid).all()):
            idle = torch.zeros_like(mask)
            if skips:
                idle = mask & state.image & ~(self._best(state, self.compute_rate) if again else self._core(state))
            (front, front_there), (back, back_there) = places(idle), places(mask & ~idle)
            index, there = torch.cat([front, back], 2), torch.cat([front_there, back_there], 2)
            entries = lay_out(entries, index, there)
            if "text" in memo:
                memo["text"] = memo["text"].gather(2, index)
            memo["idle"] = torch.full((len(index), 1), front.shape[2], device=index.device)
        idle_count = int(memo["idle"].max())
        return Kept(
            entries.k,
            entries.v,
            entries.positions,
            entries.valid,
            entries.bias,
            parked=0 if whole_next or not skips else idle_count,
        )

    def _core(self, state: LayerState) -> Tensor:
        """The core as it lies: image entries behind those in front."""
        place = torch.arange(state.k.shape[2], device=state.k.device)
        return state.image & (place >= int(state.memo["idle"].max()))
