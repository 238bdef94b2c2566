"""AM, "Fast KV Compaction via Attention Matching" (arXiv 2602.16284; code adamzweiger/compaction, MIT): what a few keys can stand
for.

Per key head: the image keys with the largest root-mean-square attention over the reference queries stay; their biases and values
are then fitted (`fna.kv.matching`). References are queries of the prompt itself, evenly spread over its text and image, the last
ones among them; the authors repeat the prefill or let the model talk to itself for more. Text is exact. FNA's (key, value, log
N/m) with a constant bias and no fit is the first step of the same ladder: ``kv=fna kv.ladder=...``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fna.kv.contract import Kept, LayerState, Positions
from fna.kv.matching import masses
from fna.kv.references import referred, stand_in
from fna.kv.select import best, counts
from fna.values import Budget, Count, Positive


@dataclass(frozen=True)
class AttentionMatching:
    """``budget``: image tokens left; ``references``: queries that are matched; ``ridge``: of the fitted values, towards their
    own.
    """

    budget: Budget = 0.25
    references: Count = 256
    ridge: Positive = 0.01
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def keep(self, state: LayerState) -> Kept:
        """The image's best keys, with biases and values that make up for the rest."""
        count = counts(self.budget, state.image.sum(-1))
        image = referred(state, self.references)
        received = (masses(image.logits, image.among) * image.there).square().sum(-2)
        return stand_in(state, image, best(received, state.image, count), bias="fitted", values="fitted", ridge=self.ridge)
