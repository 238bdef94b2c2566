"""DivPrune (arXiv:2503.02175, CVPR 2025): the most diverse image tokens; FNA's farthest points on what enters the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fna.kv.image_tokens import Choice, ImageTokens, Picture, cosines
from fna.ops.farthest import farthest_points


@dataclass(frozen=True)
class DivPrune(ImageTokens):
    """First the token farthest (in cosine distance) from its nearest neighbour, then always the one farthest from those chosen.

    The released code hands the tokens on in the order in which they were chosen, on which its published numbers rest (their issue
    8: CIDEr 1.00, sorted 1.022); here they keep their order.
    """

    version: ClassVar[int] = 1

    def choose(self, picture: Picture, count: int) -> Choice:
        """Farthest points of unit vectors: their squared distance is twice the cosine distance."""
        alike = cosines(picture.hidden, picture.hidden).fill_diagonal_(-2.0)
        start = torch.zeros(1, picture.count, dtype=torch.bool, device=alike.device)
        start[0, alike.amax(1).argmin()] = True
        unit = torch.nn.functional.normalize(picture.hidden.float(), dim=-1)
        return Choice(farthest_points(unit[None], count, start)[0].sort().values)
