"""LLaVA-PruMerge and PruMerge+ (arXiv:2403.15388): the image tokens of largest CLS attention, each with its neighbours added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fna.kv.image_tokens import Choice, ImageTokens, Picture, cosines, rest, top
from fna.values import Count, Share


@dataclass(frozen=True)
class PruMerge(ImageTokens):
    """Attention of the CLS token in the tower's last block, taken over its whole width (not head by head), ranks the patches; each
    kept one adds its ``neighbours`` nearest by key, weighted by that attention; one more token is the weighted sum of all that were
    not kept, in the column of the last of them.

    ``spatial``: share of the kept that are evenly spaced patches instead (0: PruMerge; about 0.75: PruMerge+). The paper lets the
    share of outliers of the attention (above the third quartile by 1.5 times the range between quartiles) set the budget; here the
    budget is given, as for every other method. Kept from the released code: weights that are not normalised. Not kept: the
    order by score.
    """

    neighbours: Count = 32
    spatial: Share = 0.0
    eyes: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def choose(self, picture: Picture, count: int) -> Choice:
        """Kept tokens and the one for the rest, ``count`` in all."""
        weight = picture.attention(-1, split=False)[:, 0]
        kept = max(1, count - 1)
        index = top(weight, max(1, kept - round(kept * self.spatial)))
        others = rest(picture.count, index)
        spaced = torch.arange(kept - len(index), device=others.device) * len(others) // max(1, kept - len(index))
        index = torch.cat([index, others[spaced]]).sort().values
        features, keys = picture.features, picture.keys(-1).flatten(1)
        alike = cosines(keys[index], keys)
        alike[torch.arange(len(index), device=alike.device), index] = float("-inf")
        near = alike.topk(min(self.neighbours, picture.count - 1), dim=1).indices
        new = features[index] + (weight[near][..., None] * features[near]).sum(1)
        left = rest(picture.count, index)
        if count == 1:
            return Choice(index, features=new)
        extra = (weight[left][:, None] * features[left]).sum(0, keepdim=True)
        return Choice(torch.cat([index, left[-1:]]), features=torch.cat([new, extra]))
