"""SparseVLM (Zhang et al. 2024, arXiv 2410.04417; code Gumpest/SparseVLMs, Apache-2.0): the question's words rate the image.

Raters, once, from the embeddings that enter the decoder: of the text after the image the tokens that get more than their share of a
softmax of image times text, mean over the image. After blocks 2, 6 and 15 of 32 the image tokens that the raters give most to stay,
mean over raters and heads. How many is the released code's table (the paper's rank rule is not what runs), read between its columns
for budgets in between. Of what goes, the best 30 % are clustered by density peaks into a tenth as many groups.

Left out: the released code puts group means behind the image under new positions, and numbers all tokens anew; here a group's mean
takes the place of its centre, and positions stay. Its "retain" counts blocks that run in full as cut; the measured bytes do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.kv.contract import Block, LayerState, Positions, Prompt, Stay
from fna.kv.pruned import stages
from fna.kv.select import best, counts, places, weights
from fna.values import within

BLOCKS = (3, 7, 16)  # before these, so after 2, 6 and 15
# Nominal mean over the blocks -> what is left after each stage, of 576 image tokens.
TABLE = ((0, 0, 0, 0), (64, 66, 30, 17), (96, 238, 48, 26), (128, 303, 110, 36), (192, 300, 200, 110), (576, 576, 576, 576))
TOKENS = 576
RECYCLED, GROUP = 0.3, 10


@dataclass(frozen=True)
class SparseVLM:
    """``budget``: nominal mean of the image tokens over the blocks (published: 192, 128, 96, 64 of 576). ``recycle``: group
    means.
    """

    budget: Annotated[float, within(0, 1)] = 1 / 3
    recycle: bool = True
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def prune(self, block: Block) -> Stay | None:
        """The columns from the next stage on."""
        blocks = stages(BLOCKS, block.depth)
        if block.layer not in blocks or block.before is None or self.budget == 1:
            return None
        share = _share(self.budget, blocks.index(block.layer))
        if "raters" not in block.memo:
            block.memo["raters"] = _raters(block.embedded.float(), block.prompt)
        scores = _rated(block.before, block.memo["raters"])
        count = torch.minimum(counts(share, block.prompt.image.sum(-1)), block.image.sum(-1))
        chosen = best(scores, block.image, count)
        if not self.recycle:
            return Stay(block.there & (~block.image | chosen))
        centres, hidden = _recycled(block, scores, block.image & ~chosen)
        return Stay(block.there & (~block.image | chosen | centres), hidden)


def _share(budget: float, stage: int) -> float:
    """Share of the image left after a stage, between the columns of the table."""
    nominal = budget * TOKENS
    for low, high in pairwise(TABLE):
        if nominal <= high[0]:
            part = (nominal - low[0]) / (high[0] - low[0])
            return (low[1 + stage] + part * (high[1 + stage] - low[1 + stage])) / TOKENS
    return 1.0


def _raters(x: Tensor, prompt: Prompt) -> Tensor:
    """Which columns rate the image, bool ``[B, P]``, by their embeddings x ``[B, P, D]``; all text after it where none stands
    out.
    """
    image, columns = prompt.image, torch.arange(x.shape[1], device=x.device)
    text = prompt.valid & (columns > torch.where(image, columns, -1).amax(1, keepdim=True))
    given = (x @ x.mT).masked_fill(~text[:, None], float("-inf"))
    given = given.masked_fill(~text.any(-1)[:, None, None], 0).softmax(-1)
    mean = (given * image[..., None]).sum(1) / image.sum(-1, keepdim=True).clamp_min(1)
    above = text & (mean > 1 / text.sum(-1, keepdim=True).clamp_min(1))
    return torch.where(above.any(-1, keepdim=True), above, text)


def _rated(state: LayerState, raters: Tensor) -> Tensor:
    """What the raters give to each entry, mean over them and over heads: ``[B, n]``."""
    index, valid = places(raters.gather(1, state.asked.clamp_min(0)) & (state.asked >= 0))
    q = state.q.gather(2, index[:, None, :, None].expand(-1, state.q.shape[1], -1, state.q.shape[3]))
    columns = torch.where(valid, state.asked.gather(1, index), -1)
    return weights(state, q, columns).mean((1, 2)).sum(1) / valid.sum(-1, keepdim=True).clamp_min(1)


def _recycled(block: Block, scores: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    """Centres among the columns that are ``gone`` ``[B, n]``, and ``hidden`` with the mean of each group in its centre."""
    again = best(scores, gone, (gone.sum(-1) * RECYCLED).long() + 1)
    centres, hidden = torch.zeros_like(gone), block.hidden.clone()
    for row, mask in enumerate(again):
        members = mask.nonzero()[:, 0]
        if len(members):
            heads, group = density_peaks(block.hidden[row, members].float(), len(members) // GROUP + 1)
            sums = torch.zeros(len(heads), hidden.shape[-1], device=hidden.device)
            sums.index_add_(0, group, block.hidden[row, members].float())
            size = torch.bincount(group, minlength=len(heads))[:, None]
            hidden[row, members[heads]] = (sums / size).to(hidden.dtype)
            centres[row, members[heads]] = True
    return centres, hidden


def density_peaks(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Centres int64 ``[groups]`` of x ``[n, D]`` and the group of each row (DPC-KNN), ties to the earlier row.

    Density is exp of minus the mean square of the distances (over the root of D) to the ``groups`` nearest rows, oneself among
    them; a centre is dense and far from all that are denser. The released code adds noise of 1e-6 to break ties.
    """
    distance = torch.cdist(x, x) / x.shape[1] ** 0.5
    density = (-distance.topk(min(groups, len(x)), dim=1, largest=False).values.square().mean(1)).exp()
    order = torch.arange(len(x), device=x.device)
    denser = (density[None] > density[:, None]) | ((density[None] == density[:, None]) & (order[None] < order[:, None]))
    far = distance.masked_fill(~denser, float("inf")).amin(1)
    far = torch.where(denser.any(1), far, distance.max())
    heads = torch.sort(density * far, descending=True, stable=True).indices[:groups]
    group = distance[:, heads].argmin(1)
    group[heads] = torch.arange(len(heads), device=x.device)
    return heads, group
