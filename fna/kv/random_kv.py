"""Random image tokens: the control that every published policy has to beat, and on many sets does not (facts: UniPruneBench)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fna.kv.contract import Kept, LayerState, Positions
from fna.kv.select import best, counts, drawn, rest_and, take
from fna.values import Budget, between


@dataclass(frozen=True)
class RandomKV:
    """``budget``: image tokens kept in each layer, the same for all heads; drawn by seed, layer and number of image tokens
    alone.
    """

    budget: Budget = 0.25
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def keep(self, state: LayerState) -> Kept:
        """All text, and some of the image."""
        image = state.image[:, 0]
        chosen = best(drawn(image, "random_kv", self.seed, state.layer), image, counts(self.budget, image.sum(-1)))
        return take(state.entries, rest_and(state, chosen[:, None].expand_as(state.image)))
