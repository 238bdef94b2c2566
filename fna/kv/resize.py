"""A smaller image at the same number of tokens: the control that beat four published pruners on eight sets (VTC-Bench,
arXiv:2510.07143)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fna.kv.image_tokens import Choice, ImageTokens, Picture, centres, smaller_grid
from fna.kv.select import counts


@dataclass(frozen=True)
class ResizedImage(ImageTokens):
    """The tower sees the image at fewer pixels (bilinear, antialiased) with its positions resampled, so it is cheaper too.

    A patch of the small image stands in the column of the large one's patch in its middle. For towers of one grid whose library
    resamples positions (CLIP, SigLIP); a model that takes images of any size is shown a smaller one instead (``image_size``).
    """

    eyes: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def smaller(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of the image that the tower is to see instead of one of ``grid``."""
        return smaller_grid(grid, int(counts(self.budget, torch.tensor(grid[0] * grid[1]))))

    def choose(self, picture: Picture, count: int) -> Choice:
        """One column for each patch of the small image; its features lie there already (`fna.surgery.sight`)."""
        assert picture.grid is not None, "the tower refused"
        return Choice(centres(picture.grid, self.smaller(picture.grid)).to(picture.hidden.device))
