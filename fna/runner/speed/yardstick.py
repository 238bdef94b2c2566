"""The authors' formulation, as plainly as they have it: what fna has to beat (facts: fna_repo.md, sections 1.2, 1.3, 1.6).

Sampler: one call of torch-quickfps with trees of height 8, then the rows put together one by one, in Python. Operation: advanced
indexing for the landmarks, softmax, six dense steps of the inverse with an identity made anew, two fused attentions. It lives
here to be measured; nothing else uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.contract import Site
from fna.ops.farthest import farthest_points

STEPS = 6


def sample(x: Tensor, count: int, keep: Tensor) -> Tensor:
    """Landmarks of ``x`` ``[B, N, D]``: kept tokens (bool ``[B, N]``) ascending, then farthest points: ``[B, count]``.

    The kept tokens do not seed the distances. On a GPU, for which quickfps has no ordinary wheel, our loop stands in for it.
    """
    free = ~keep
    wanted = (count - keep.sum(1)).clamp(min=0).minimum(free.sum(1))
    most = int(wanted.max().item())
    picks = _quickfps(x, most, free)
    rows = []
    for row in range(len(x)):
        kept = keep[row].nonzero().flatten()[:count]
        number = int(wanted[row].item())
        chosen = torch.cat([kept, picks[row, :number]])
        missing = count - int(chosen.shape[0])
        rows.append(torch.cat([chosen, chosen[-1:].expand(missing)]) if missing > 0 else chosen)
    return torch.stack(rows)


def _quickfps(x: Tensor, count: int, free: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return farthest_points(x, count, None, free)
    import torch_quickfps

    return torch_quickfps.sample_idx(x, count, h=8, low_d=8, mask=free)


def attend(q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """FNA of q, k, v ``[B, H, N, d]`` over landmarks ``[B, M]``, default scale, everything in the input's dtype."""
    scale = q.shape[-1] ** -0.5
    row = torch.arange(q.shape[0], device=q.device)[:, None]
    marks_q = q[row, :, index].transpose(1, 2)
    marks_k = k[row, :, index].transpose(1, 2)
    block = torch.softmax(marks_q @ marks_k.transpose(-1, -2) * scale, dim=-1)
    values = invert(block) @ F.scaled_dot_product_attention(marks_q, k, v)
    return F.scaled_dot_product_attention(q, marks_k, values)


def invert(block: Tensor) -> Tensor:
    """Six steps of the third-order iteration from the transpose over the largest column sum, ``[..., M, M]``."""
    same = torch.eye(block.shape[-1], dtype=block.dtype, device=block.device)
    inverse = block.transpose(-1, -2) / block.sum(-2).max(-1).values[..., None, None]
    for _ in range(STEPS):
        y = block @ inverse
        inverse = 0.25 * inverse @ (13 * same - y @ (15 * same - y @ (7 * same - y)))
    return inverse


@dataclass(frozen=True)
class Yardstick:
    """The same as an attention: landmarks drawn in the first block that asks, prefix tokens kept, shared by later blocks."""

    landmarks: int = 64

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]``; the site's scale is taken to be the default."""
        index = site.memo.get("yardstick")
        if index is None:
            with site.clock("sampling"):
                keep = (torch.arange(k.shape[2], device=k.device) < site.tokens.prefix).expand(k.shape[0], -1)
                index = site.memo["yardstick"] = sample(q.mean(1).float(), self.landmarks, keep)
        return attend(q, k, v, index)
