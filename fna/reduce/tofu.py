"""ToFu: pruning first, merging later (Kim et al. 2024, arXiv 2312.01026; no official code, the switch after PiToMe's baseline).

Pairs are matched as in ToMe, r = floor(N - N keep) of N tokens. Up to block floor(L / 2) the matched tokens are dropped: early
blocks answer badly to means. Later they merge by MLERP: the plain mean of a group, at the largest norm in it. (The port in PiToMe's
code divides by the norm of the original destination instead of the mean's.) Sizes do not weigh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Tokens, whole
from fna.reduce.joining import Joining, kept_of, mean, renewed, rows, sizes_of, summed
from fna.reduce.matching import by_parity, likeness
from fna.surgery.reduce import Place
from fna.values import between


@dataclass(frozen=True)
class ToFu:
    """``keep``: share of the tokens that stay in each block."""

    keep: Annotated[float, between(0.5, 1)] = 0.95
    version: ClassVar[int] = 1

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        """``x`` ``[B, N, D]`` with the matched tokens dropped or merged."""
        count = whole(x.shape[1])
        r = count - kept_of(self.keep, count)
        join = by_parity(likeness(place.keys()), place.tokens, r) if r else None
        if join is None:
            return x, place.tokens
        prune = place.layer <= place.depth // 2
        sizes = summed(sizes_of(place.tokens, x), join.target, join.kept.shape[1])
        return rows(x, join.kept) if prune else mlerp(x, join), renewed(place.tokens, join.target, sizes, weigh=False)


def mlerp(x: Tensor, join: Joining) -> Tensor:
    """Plain means of what was joined, each at the largest norm of its group: ``[B, K, D]``."""
    out = mean(x, torch.ones(x.shape[:2], device=x.device), join)
    norms = x.norm(dim=-1, dtype=torch.float32)
    largest = norms.gather(1, join.kept).scatter_reduce(1, join.into, norms.gather(1, join.gone), "amax")
    longer = largest / out.norm(dim=-1, dtype=torch.float32).clamp_min(1e-6)
    return out * longer.to(x.dtype)[..., None]
