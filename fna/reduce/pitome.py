"""PiToMe: merging where tokens are many of a kind (Tran et al. 2024, NeurIPS; released code CC-BY-NC, only the formula is used).

With C the cosines of head-mean keys among the T patches and the margin m = c (1 - l / L) in block l of L, the energy of a patch is
E_i = mean_j ELU(C_ij - m): high where many are alike. Of the 2r patches of highest energy, ranks 0, 2, 4 ... each merge into the
most alike among ranks 1, 3, 5 ...; all others are protected. In the first ``early`` of the blocks the energy only shapes the two
halves, of all patches, and the r most alike pairs merge as in ToMe. r = floor(T - T keep). The paper lets sizes weigh in later
attentions, the released code does not; on our ViT-Ti they help (docs/reducers.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from fna.ops.contract import Tokens
from fna.reduce.joining import joined, kept_of, patches
from fna.reduce.matching import likeness, matched
from fna.surgery.reduce import Place
from fna.values import NotNegative, Share, between


@dataclass(frozen=True)
class PiToMe:
    """``keep``: share of the patches that stay in each block. ``margin``: c. ``proportional``: sizes weigh in later attentions."""

    keep: Annotated[float, between(0.5, 1)] = 0.95
    margin: NotNegative = 0.75
    early: Share = 0.5
    proportional: bool = True
    version: ClassVar[int] = 1

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        """``x`` ``[B, N, D]`` with the redundant patches merged."""
        first, last = patches(place.tokens, x.shape[1])
        r = last - first - kept_of(self.keep, last - first)
        if r < 1:
            return x, place.tokens
        metric = likeness(place.keys())
        ranks = first + energy(metric[:, first:last], self.margin * (1 - place.layer / place.depth)).argsort(
            dim=1, descending=True, stable=True
        )
        if place.layer >= math.ceil(self.early * place.depth):
            ranks = ranks[:, : 2 * r]
        return joined(x, place.tokens, matched(metric, ranks[:, ::2], ranks[:, 1::2], r), self.proportional)


def energy(metric: Tensor, margin: float) -> Tensor:
    """How many are alike: ``[B, T]`` of keys ``[B, T, d]`` of length 1; each counts itself."""
    return F.elu(metric @ metric.transpose(1, 2) - margin).mean(-1)
