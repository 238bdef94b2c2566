"""VisPruner (arXiv:2412.01818, ICCV 2025): half of the image tokens by CLS attention, half by what is least repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fna.kv.image_tokens import Choice, ImageTokens, Picture, cosines, rest, top
from fna.values import Share

ROUND = 8  # tokens dropped in a round


@dataclass(frozen=True)
class VisPruner(ImageTokens):
    """``important`` of the budget go to the largest head-mean CLS attention of the penultimate block. Of the others, in rounds, the
    even ones are compared with the odd ones and the eight most like one of them are dropped, until the budget is met.

    ``important=1`` is FasterVLM, the paper's first version.
    """

    important: Share = 0.5
    eyes: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def choose(self, picture: Picture, count: int) -> Choice:
        """Important and diverse tokens, ``count`` in all."""
        first = top(picture.attention(-2).mean(1), round(count * self.important))
        left = rest(picture.count, first)
        features = picture.features
        wanted = count - len(first)
        while len(left) > wanted:
            even, odd = left[::2], left[1::2]
            drop = min(ROUND, len(left) - wanted, len(even))
            likest = cosines(features[even], features[odd]).amax(1) if len(odd) else features.new_zeros(len(even))
            keep = torch.ones(len(left), dtype=torch.bool, device=left.device)
            keep[2 * top(likest, drop)] = False
            left = left[keep]
        return Choice(torch.cat([first, left]).sort().values)
