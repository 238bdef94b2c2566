"""HyperAttention (Han et al. 2024, arXiv 2310.05869, algorithms 1 to 3): blocks of alike tokens exactly, the rest by sampled keys.

Queries and keys are sorted, each by the signs of a few random projections; block i of the sorted queries sees block i of the
sorted keys. Beside it every query sees m keys drawn with replacement, each standing for N / m, but for those of its own block:

    out_i = softmax over [s q_i·k_j of the block, s q_i·k_j + log(N / m) of the sample] of their values

which is what merging the two by their log-sum-exps comes to. The released code orders buckets by the Gray code of the signs,
which sets only 192 of 255 neighbours one sign apart; ``order=inverse``, the default, uses the inverse, which sets all
(``order=gray`` keeps theirs). Not kept: zero-padded keys that stay visible, exact attention below 4,096 tokens. Time O(N (block
+ samples) d) a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.contract import BadInput, Site, refuse, same_tokens, whole
from fna.ops.inverse import full_precision
from fna.ops.nystrom import additive
from fna.ops.rows import softmax_rows
from fna.ops.seeded import normal, uniform
from fna.values import Count, between


@dataclass(frozen=True)
class Hyper:
    """``block`` keys that a query sees in its block and ``samples`` beside it; ``projections``: signs of the hash.

    Honours ``keys`` (hidden tokens are sorted to the end, as good as absent) and ``key_bias``; refuses ``causal`` and ``dense``.
    """

    block: Count = 64
    samples: Count = 64
    projections: Annotated[int, between(1, 30)] = 7
    order: Literal["inverse", "gray"] = "inverse"
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.order not in ("inverse", "gray"):
            raise BadInput(f"order={self.order}: choose one of inverse, gray.")

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal", "dense")
        same_tokens(self, q, k, site)
        tokens, block = whole(k.shape[2]), min(self.block, whole(k.shape[2]))
        with site.clock("sampling"), full_precision(q):
            planes = normal((whole(k.shape[3]), self.projections), "hyper", self.seed, site.layer, whole(k.shape[3])).float()
            by_q, by_k = (self._sorted(x, planes.to(x.device), site.keys) for x in (q, k))
            share = uniform((whole(k.shape[1]), self.samples), "hyper", self.seed, site.layer, tokens, self.samples).to(k.device)
            supply = tokens if site.keys is None else site.keys.sum(1)[:, None, None]
            place = (share * supply).long().clamp_max(tokens - 1).expand(k.shape[0], -1, -1)  # in the order of the keys
        bias = additive(site.keys, site.key_bias)
        bias = k.new_zeros(k.shape[:3]) if bias is None else bias[:, None].expand(k.shape[:3]).to(k.dtype)
        with site.clock("gather"):
            padding = -tokens % block
            queries, keys, values = (
                F.pad(_rows(x, order), (0, 0, 0, padding)).unflatten(2, (-1, block))
                for x, order in ((q, by_q), (k, by_k), (v, by_k))
            )
            own = F.pad(bias.gather(2, by_k), (0, padding), value=float("-inf")).unflatten(2, (-1, block))
            drawn = by_k.gather(2, place)
            far, far_values = _rows(k, drawn), _rows(v, drawn)
        with site.clock("attention"):
            wide = torch.promote_types(q.dtype, torch.float32)
            near_logits = (site.scale * queries) @ keys.mT
            far_logits = (site.scale * queries.flatten(2, 3)) @ far.mT
            near_logits = near_logits.flatten(2, 3).to(wide) + own.repeat_interleave(block, 2).to(wide)
            here = torch.arange(tokens + padding, device=q.device) // block
            weight = (
                bias.gather(2, drawn)[:, :, None].to(wide) + _log(supply, wide, q.device) - torch.log(torch.tensor(self.samples))
            )
            far_logits = (far_logits.to(wide) + weight).masked_fill((place // block)[:, :, None] == here[:, None], float("-inf"))
            weights = softmax_rows(torch.cat((near_logits, far_logits), -1)).to(v.dtype)
            near = (weights[..., :block].unflatten(2, (-1, block)) @ values).flatten(2, 3)
            out = (near + weights[..., block:] @ far_values)[:, :, :tokens]
        return torch.zeros_like(q).scatter(2, by_q[..., None].expand(-1, -1, -1, q.shape[-1]), out.to(q.dtype))

    def _sorted(self, x: Tensor, planes: Tensor, keys: Tensor | None) -> Tensor:
        """Tokens of ``x`` ``[B, H, N, d]`` in the order of their buckets, ties by index, hidden ones last: int64 ``[B, H, N]``."""
        signs = (x.to(planes.dtype) @ planes > 0).long()
        number = (signs << torch.arange(self.projections, device=x.device)).sum(-1)
        bucket = inverse_gray(number) if self.order == "inverse" else number ^ (number >> 1)
        if keys is not None:
            bucket = torch.where(keys[:, None], bucket, 1 << self.projections)
        return bucket.argsort(dim=-1, stable=True)


def inverse_gray(code: Tensor) -> Tensor:
    """The number whose Gray code is ``code``, below 2^32: neighbours in it differ by one sign."""
    for shift in (1, 2, 4, 8, 16):
        code = code ^ (code >> shift)
    return code


def _log(supply: int | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """log of how many keys there are, as a tensor that broadcasts to the logits."""
    counts = torch.as_tensor(supply, dtype=dtype, device=device).clamp_min(1)
    return counts.log() if counts.dim() == 0 else counts[..., None].log()


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[-1]))
