"""Where in a model tokens become massive, from the norms of its patches."""

from __future__ import annotations

from torch import Tensor

LEAST = 3.0


def outstanding(norms: Tensor) -> Tensor:
    """How far the largest patch of an image stands out: its norm over the median one. ``[n, blocks, P]`` -> ``[n, blocks]``."""
    return norms.amax(-1) / norms.median(-1).values.clamp_min(1e-12)


def detection_block(norms: Tensor) -> int | None:
    """The first block that sees massive tokens grown, from patch norms leaving each block ``[n, blocks, P]``.

    Averaged over images, the largest patch stands out by some factor; the block after the first that reaches half of the largest
    factor is the answer (13 of 24 for the norms of CLIP ViT-L that the FNA authors plot, their choice). None if the factor
    stays below 3 or is only reached in the last block: the model has no massive tokens to speak of.
    """
    factor = outstanding(norms).mean(0)
    if factor.max() < LEAST:
        return None
    block = int((factor >= factor.max() / 2).nonzero()[0, 0]) + 1
    return block if block < norms.shape[1] else None
