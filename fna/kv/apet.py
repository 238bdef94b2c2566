"""ApET (arXiv:2602.19870, CVPR 2026): the image tokens that a few of them explain worst, the others joined to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fna.kv.image_tokens import Choice, ImageTokens, Picture, cosines, rest, top
from fna.ops.farthest import farthest_points
from fna.values import Count

RIDGE = 1e-5


@dataclass(frozen=True)
class ApET(ImageTokens):
    """A ``basis`` of farthest points explains every token linearly; those with the largest error are kept, and the basis in the
    place of the smallest errors among them; each other token joins the kept one (not of the basis) most like it, in a mean.

    Before the projector. The released code prunes once more at decoder block 16, to 32 tokens: that is left out, one stage for one
    budget. Its farthest points start at random, here at the first token.
    """

    basis: Count = 10
    eyes: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def choose(self, picture: Picture, count: int) -> Choice:
        """The basis and the worst explained, ``count`` in all."""
        x = picture.features
        size = min(self.basis, count - 1)
        if size < 1:
            return Choice(top(x.square().sum(1), count))
        basis = farthest_points(x[None], size)[0]
        z = x[basis]
        gram = z @ z.T + RIDGE * torch.eye(size, device=x.device)
        error = (x - torch.linalg.solve(gram, z @ x.T).T @ z).square().sum(1)
        error[basis] = float("-inf")
        worst = top(error, count - size)
        left = rest(picture.count, torch.cat([worst, basis]))
        nearest = cosines(x[left], x[worst]).argmax(1)
        sums = x[worst].index_add(0, nearest, x[left])
        sizes = 1 + torch.bincount(nearest, minlength=len(worst))
        return Choice(torch.cat([worst, basis]), features=torch.cat([sums / sizes[:, None], z]))
