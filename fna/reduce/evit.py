"""EViT without its training (Liang et al. 2022, arXiv 2202.07800; code Apache-2.0): CLS keeps what it looks at.

In three blocks, a_j is what CLS gives to patch j, mean over heads, of the same attention; the ceil(keep P) patches of largest a
stay, in their order, and the others become one token at the end, sum_j a_j y_j. The released code leaves that sum as it is, a token
far smaller than any other, which a trained model learns to read; ``normalise`` divides it by sum_j a_j. At the next stage the fused
token is a patch like any other. Without a CLS there is nobody to ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Tokens
from fna.reduce.joining import kept_of, patches, renewed, rows, sizes_of, summed
from fna.reduce.stages import at_stage
from fna.surgery.reduce import Place
from fna.values import within


@dataclass(frozen=True)
class EViT:
    """``keep``: share of the patches that stay at each of three stages. ``normalise``: the fused token is a mean."""

    keep: Annotated[float, within(0, 1)] = 0.7
    normalise: bool = True
    version: ClassVar[int] = 1

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        """``x`` ``[B, N, D]`` with what CLS does not look at fused into one token."""
        first, last = patches(place.tokens, x.shape[1])
        stay = kept_of(self.keep, last - first)
        if not at_stage(place) or stay >= last - first:
            return x, place.tokens
        given = place.cls_gives()[:, first:last]
        order = given.argsort(dim=1, descending=True, stable=True)
        kept, gone = order[:, :stay].sort(dim=1).values, order[:, stay:]
        weights = given.gather(1, gone)
        weights = weights / weights.sum(1, keepdim=True) if self.normalise else weights
        fused = weights.to(x.dtype)[:, None] @ rows(x, first + gone)
        out = torch.cat([x[:, :first], rows(x, first + kept), fused, x[:, last:]], dim=1)
        ends = torch.arange(x.shape[1], device=x.device)
        target = torch.where(ends < first, ends, ends - (last - first) + stay + 1).expand(x.shape[:2])
        target = target.scatter(1, first + kept, torch.arange(first, first + stay, device=x.device).expand_as(kept))
        target = target.scatter(1, first + gone, first + stay)
        sizes = summed(sizes_of(place.tokens, x), target, out.shape[1])
        return out, renewed(place.tokens, target, sizes, weigh=False)
