"""What pruners inside the decoder share: who is asked about the image, and which columns go on."""

from __future__ import annotations

from torch import Tensor

from fna.kv.contract import Block, LayerState, Stay
from fna.kv.select import best, counts, last_queries, weights

LAYERS = 32  # of the decoder that the published block numbers are for


def asked_last(state: LayerState) -> Tensor:
    """What the last token of each row gives to each entry, mean over heads: ``[B, N]``."""
    q, columns = last_queries(state, 1)
    return weights(state, q, columns).mean((1, 2))[:, 0]


def image_budget(block: Block, layer: int, budget: float) -> tuple[LayerState, Tensor] | None:
    """Before block ``layer``, what the block before attended to and how many image columns ``[B]`` go on; elsewhere None."""
    if block.layer != layer or block.before is None:
        return None
    return block.before, counts(budget, block.prompt.image.sum(-1))


def staying(block: Block, scores: Tensor, count: Tensor, hidden: Tensor | None = None) -> Stay:
    """The ``count`` ``[B]`` image columns of the highest ``scores`` ``[B, n]``, and all others."""
    return Stay(block.there & (~block.image | best(scores, block.image, count)), hidden)


def stages(blocks: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Published block numbers (of 32) in a decoder of ``depth``: ascending, the first not before block 1."""
    found: list[int] = []
    for number in blocks:
        found.append(max(round(number * depth / LAYERS), 1 + (found[-1] if found else 0)))
    return tuple(found)
