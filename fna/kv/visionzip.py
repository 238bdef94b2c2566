"""VisionZip (arXiv:2412.04467, CVPR 2025): the image tokens that the CLS token attends to, and means of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from fna.kv.image_tokens import Choice, ImageTokens, Picture, cosines, rest, top
from fna.values import within


@dataclass(frozen=True)
class VisionZip(ImageTokens):
    """``dominant`` of the budget go to the patches with the largest CLS attention (summed over heads, penultimate block), the
    others to contextual tokens: every so many-th of what is left is a target, each other one joins the target whose key (mean over
    heads) is most like its own.

    Kept from the released code: a contextual token is its target plus the mean of those that joined it. Not kept: the CLS token
    among the dominant ones, since a LLaVA's decoder sees none of it; contextual tokens behind all others (here each stands
    where its target stood). Defaults there: 54 + 10 of 576 tokens.
    """

    dominant: Annotated[float, within(0, 1)] = 54 / 64
    eyes: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def choose(self, picture: Picture, count: int) -> Choice:
        """Dominant and contextual tokens, ``count`` in all."""
        leading = min(count, max(1, round(count * self.dominant)))
        first = top(picture.attention(-2).sum(1), leading)
        left = rest(picture.count, first)
        features = picture.features
        if leading == count:
            return Choice(first)
        step = max(1, len(left) // (count - leading))
        target = torch.zeros(len(left), dtype=torch.bool, device=left.device)
        target[torch.arange(count - leading, device=left.device) * step] = True
        goals, joining = left[target], left[~target]
        metric = picture.keys(-2).mean(1)
        nearest = cosines(metric[joining], metric[goals]).argmax(1)
        sums = features.new_zeros(len(goals), features.shape[1]).index_add_(0, nearest, features[joining])
        sizes = torch.bincount(nearest, minlength=len(goals)).clamp_min(1)
        new = torch.cat([features[first], features[goals] + sums / sizes[:, None]])
        return Choice(torch.cat([first, goals]), features=new)
