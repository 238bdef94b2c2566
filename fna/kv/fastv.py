"""FastV (Chen et al. 2024, arXiv 2403.06764; code pkunlp-icler/FastV, no licence): after two layers half the image is worth little.

Before block ``layer`` the image tokens are ranked by what the last prompt token gave them in the block before, mean over heads;
the best stay, with their original positions, and later blocks hold and see no others. The blocks before keep the whole image in
their caches, so that decoding gains less than the prompt does (FastV #13, #22). The in-place form; the authors' tables come from
the other, which masks keys and saves nothing. One row of one block is computed again; fused attention stays on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fna.kv.contract import Block, Positions, Stay
from fna.kv.pruned import asked_last, image_budget, staying
from fna.kv.select import check_block
from fna.values import Budget, Count


@dataclass(frozen=True)
class FastV:
    """``budget``: image tokens from block ``layer`` on (published: layer 2, half of them)."""

    budget: Budget = 0.25
    layer: Count = 2
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def check(self, depth: int) -> None:
        """Raise `UserError` for a decoder of ``depth`` blocks that has no such block."""
        check_block("kv.layer", self.layer, depth)

    def prune(self, block: Block) -> Stay | None:
        """The columns from block ``layer`` on."""
        found = image_budget(block, self.layer, self.budget)
        return None if found is None else staying(block, asked_last(found[0]), found[1])
