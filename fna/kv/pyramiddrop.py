"""PyramidDrop (Xing et al. 2024, arXiv 2410.17247; code Cooperx521/PyramidDrop): fewer image tokens at each quarter of the depth.

After a quarter, a half and three quarters of the blocks (8, 16 and 24 of 32) the same share of the image tokens that are left
stays: those that the last prompt token gives most to, mean over heads, in the block before. Original positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fna.kv.contract import Block, Positions, Stay
from fna.kv.pruned import asked_last, stages, staying
from fna.kv.select import counts
from fna.values import within

BLOCKS = (8, 16, 24)


@dataclass(frozen=True)
class PyramidDrop:
    """``budget``: share of the image tokens that is left in the last quarter (published: an eighth, half at each stage)."""

    budget: Annotated[float, within(0, 1)] = 0.125
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def prune(self, block: Block) -> Stay | None:
        """The columns from the next stage on."""
        blocks = stages(BLOCKS, block.depth)
        if block.layer not in blocks or block.before is None:
            return None
        share = self.budget ** ((1 + blocks.index(block.layer)) / len(blocks))
        return staying(block, asked_last(block.before), counts(share, block.prompt.image.sum(-1)))
