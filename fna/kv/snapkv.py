"""SnapKV (Li et al. 2024, arXiv 2404.14469; code FasterDecoding/SnapKV, Apache-2.0): the question votes, per head, once.

The last ``window`` queries of the prompt attend to all keys; what each earlier key gets from them is summed over the rows (and the
query heads of its group), averaged over ``pool`` neighbours, zeros counted at the edges, and the best stay together with the whole
window. Text before the window competes with the image: as many entries stay in all as if ``budget`` image tokens and all text had.
Kept entries are in order here; the released code leaves them by score, which changes nothing but reading.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from fna.errors import UserError
from fna.kv.contract import Kept, LayerState, Positions
from fna.kv.select import best, last_queries, take, total_budget, weights
from fna.values import Budget, Count


@dataclass(frozen=True)
class SnapKV:
    """``budget``: of the image tokens; ``window``: queries that vote and stay; ``pool``: odd width of the average."""

    budget: Budget = 0.25
    window: Count = 32
    pool: Count = 5
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.pool % 2 == 0:
            raise UserError(f"kv.pool={self.pool}: give an odd number.")

    def keep(self, state: LayerState) -> Kept:
        """The window, and what it looks at."""
        if self.window >= state.asked.shape[1]:
            told = f"kv.window={self.window} is no less than the {state.asked.shape[1]} tokens of a prompt"
            warnings.warn(f"{told}: all of it stays, whatever kv.budget says.", stacklevel=2)
        q, columns = last_queries(state, self.window)
        first = columns.masked_fill(columns < 0, columns.max() + 1).amin(1)[:, None, None]
        early = state.valid & (state.entries.positions < first)
        scores = weights(state, q, columns).sum((2, 3)).masked_fill(~early, 0)
        scores = F.avg_pool1d(scores, self.pool, stride=1, padding=self.pool // 2)
        count = total_budget(self.budget, state) - (state.valid & ~early).sum(-1)
        return take(state.entries, best(scores, early, count) | (state.valid & ~early))
