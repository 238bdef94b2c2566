"""Image tokens averaged over the cells of a coarser grid: the plainest way to fewer tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fna.kv.image_tokens import Choice, ImageTokens, Picture, centres, smaller_grid


@dataclass(frozen=True)
class Pool(ImageTokens):
    """What enters the decoder is averaged; a mean stands in the column of the token in the middle of its cell.

    Tokens that are no single grid (tiles with their newlines) are averaged in runs of the raster order. Of a budget that no grid
    has cells for, the nearest smaller one is taken.
    """

    version: ClassVar[int] = 1

    def choose(self, picture: Picture, count: int) -> Choice:
        """Means of the cells."""
        grid = picture.grid or (1, picture.count)
        coarse = smaller_grid(grid, count)
        return Choice(centres(grid, coarse).to(picture.hidden.device), hidden=averaged(picture.hidden, grid, coarse))


def averaged(x: Tensor, grid: tuple[int, int], coarse: tuple[int, int]) -> Tensor:
    """``x`` ``[rows * columns, D]`` of a ``grid`` to means ``[r * c, D]`` over a ``coarse`` one, float32."""
    whole = x.float().T.unflatten(1, grid)[None]
    return torch.nn.functional.adaptive_avg_pool2d(whole, coarse)[0].flatten(1).T
