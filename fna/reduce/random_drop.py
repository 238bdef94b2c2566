"""Random dropping: the control that a reducer has to beat at the same counts of tokens.

In each block r random patches go; which ones depends on (seed, block, tokens, r) alone, the same for every image and batch size.
For dense outputs a dropped token gets what the most alike of those that stay has (cosine of head-mean keys). Nothing is merged or
weighed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Tokens, not_traced
from fna.reduce.joining import joining, patches, renewed, rows, sizes_of, summed
from fna.reduce.matching import likeness
from fna.surgery.reduce import Place
from fna.values import between


@dataclass(frozen=True)
class RandomDrop:
    """``r``: how many patches go in each block, at most half of them."""

    r: Annotated[int, between(0, 10_000)] = 8
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    version: ClassVar[int] = 1

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        """``x`` ``[B, N, D]`` without r of its patches."""
        first, last = patches(place.tokens, x.shape[1])
        r = min(self.r, (last - first) // 2)
        if r < 1:
            return x, place.tokens
        not_traced("reduce=RandomDrop: which tokens go")
        key = zlib.crc32(repr((self.seed, place.layer, last - first, r)).encode())
        order = torch.randperm(last - first, generator=torch.Generator().manual_seed(key)).to(x.device)
        gone, stays = (first + part.sort().values.expand(x.shape[0], -1) for part in (order[:r], order[r:]))
        metric = likeness(place.keys())
        alike = (rows(metric, gone) @ rows(metric, stays).transpose(1, 2)).argmax(-1)
        join = joining(gone, stays.gather(1, alike), x.shape[1])
        sizes = summed(sizes_of(place.tokens, x), join.target, join.kept.shape[1])
        return rows(x, join.kept), renewed(place.tokens, join.target, sizes, weigh=False)
