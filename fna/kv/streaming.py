"""StreamingLLM (Xiao et al. 2023, arXiv 2309.17453; code mit-han-lab/streaming-llm, MIT) with the image protected.

Of the text the first ``sinks`` and the last ``recent`` tokens stay, in the prompt and while answering. As published the image would
be one more text token and fall out of the window after ``recent`` words of the answer: here it never does, and of its tokens the
last ``budget`` stay, which is what a recent window would hold of them. Positions are the original ones; the published code numbers
the cache by slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fna.kv.contract import Kept, LayerState, Positions
from fna.kv.select import counts, ranks, take
from fna.values import Budget, Count


@dataclass(frozen=True)
class Streaming:
    """``budget``: image tokens, the last ones. ``sinks`` and ``recent``: text tokens at either end."""

    budget: Budget = 0.25
    sinks: Count = 4
    recent: Count = 512
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def keep(self, state: LayerState) -> Kept:
        """The ends of the text, and the end of the image."""
        image = state.image
        first = image.sum(-1) - counts(self.budget, image.sum(-1))
        return take(state.entries, self._text(state) | (image & (ranks(image) >= first[..., None])))

    def step(self, state: LayerState) -> Kept:
        """The window moves on over the text."""
        return take(state.entries, self._text(state) | state.image)

    def _text(self, state: LayerState) -> Tensor:
        text = state.valid & ~state.image
        rank = ranks(text)
        return text & ((rank < self.sinks) | (rank >= (text.sum(-1) - self.recent)[..., None]))
