"""DART (Wen et al. 2025, arXiv 2502.11494; code ZichenWen1/DART, Apache-2.0): what is least like a few pivots is no duplicate.

Before block ``layer``: pivots are the 4 image and 4 text tokens whose keys in the block before are largest in L1 norm, all heads
together. The image pivots stay; then each pivot in turn takes its share of the image tokens that are left, the least similar to it
by the cosine of the hidden states. Nothing is asked of the attention. Kept tokens are in order, with their original positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.kv.contract import Block, Positions, Stay
from fna.kv.pruned import image_budget
from fna.kv.select import best, check_block
from fna.values import Budget, Count

PIVOTS = 4  # of the image, and as many of the text


@dataclass(frozen=True)
class Dart:
    """``budget``: image tokens from block ``layer`` on (published: 22 % from block 2)."""

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
        if found is None:
            return None
        before, count = found
        norms = before.k.abs().sum((1, 3), dtype=torch.float32)
        few = torch.full_like(count, PIVOTS)
        pivots = best(norms, block.image, torch.minimum(few, count))
        chosen = pivots
        left = count - pivots.sum(-1)
        heads = [*_each(pivots, norms), *_each(best(norms, block.there & ~block.image, few), norms)]
        x = F.normalize(block.hidden.float(), dim=-1)
        for place, pivot in enumerate(heads):
            quota = left * (place + 1) // len(heads) - left * place // len(heads)
            likeness = (x @ (x * pivot[..., None]).sum(1)[..., None])[..., 0]
            chosen = chosen | best(-likeness, block.image & ~chosen, quota)
        # A row with fewer text tokens than pivots has pivots of nothing; what they take, they take in order.
        return Stay(block.there & (~block.image | chosen))


def _each(pivots: Tensor, norms: Tensor) -> list[Tensor]:
    """Each of the pivots by itself, the largest first: masks ``[B, n]``."""
    one = torch.ones(len(norms), dtype=torch.int64, device=norms.device)
    found = []
    for _ in range(PIVOTS):
        found.append(best(norms, pivots, one))
        pivots = pivots & ~found[-1]
    return found
