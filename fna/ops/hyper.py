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

import math
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
        kind, tokens = q.dtype, whole(k.shape[2])
        block = min(self.block, tokens)
        q, k, v = (x.to(torch.promote_types(kind, torch.float32)) for x in (q, k, v))
        with site.clock("sampling"), full_precision(q):
            by_q, by_k = (self._sorted(x, site) for x in (q, k))
            supply = k.new_full((1, 1, 1), tokens) if site.keys is None else site.keys.sum(1).to(k.dtype)[:, None, None]
            share = uniform((whole(k.shape[1]), self.samples), "hyper", self.seed, site.layer, tokens, self.samples).to(k)
            place = (share * supply).long().clamp_max(tokens - 1).expand(k.shape[0], -1, -1)  # in the order of the sorted keys
        with site.clock("gather"):
            bias = additive(site.keys, site.key_bias)
            bias = k.new_zeros(k.shape[:3]) if bias is None else bias.to(k.dtype)[:, None].expand(k.shape[:3])
            padding = -tokens % block
            queries, keys, values = (
                F.pad(_rows(x, order), (0, 0, 0, padding)).unflatten(2, (-1, block))
                for x, order in ((q, by_q), (k, by_k), (v, by_k))
            )
            near_bias = F.pad(bias.gather(2, by_k), (0, padding), value=float("-inf")).unflatten(2, (-1, block))
            drawn = by_k.gather(2, place)
            far_bias = bias.gather(2, drawn) + supply.clamp_min(1).log() - math.log(self.samples)
        with site.clock("attention"), full_precision(q):
            near = (site.scale * queries) @ keys.mT + near_bias[:, :, :, None]
            far = (site.scale * queries.flatten(2, 3)) @ _rows(k, drawn).mT + far_bias[:, :, None]
            own_block = torch.arange(tokens + padding, device=q.device)[:, None] // block == place[:, :, None] // block
            weights = softmax_rows(torch.cat((near.flatten(2, 3), far.masked_fill(own_block, float("-inf"))), -1))
            out = (weights[..., :block].unflatten(2, (-1, block)) @ values).flatten(2, 3) + weights[..., block:] @ _rows(v, drawn)
        back = by_q[..., None].expand(-1, -1, -1, q.shape[3])
        return torch.zeros_like(q).scatter(2, back, out[:, :, :tokens]).to(kind)

    def _sorted(self, x: Tensor, site: Site) -> Tensor:
        """Tokens of ``x`` ``[B, H, N, d]`` in the order of their buckets, ties by index, hidden ones last: int64 ``[B, H, N]``."""
        width = whole(x.shape[3])
        planes = normal((width, self.projections), "hyper planes", self.seed, site.layer, width, self.projections).to(x)
        number = ((x @ planes > 0).long() << torch.arange(self.projections, device=x.device)).sum(-1)
        bucket = inverse_gray(number) if self.order == "inverse" else number ^ (number >> 1)
        if site.keys is not None:
            bucket = torch.where(site.keys[:, None], bucket, 1 << self.projections)
        return bucket.argsort(dim=-1, stable=True)


def inverse_gray(code: Tensor) -> Tensor:
    """The number whose Gray code is ``code``, below 2^32: neighbours in it differ by one sign."""
    for shift in (1, 2, 4, 8, 16):
        code = code ^ (code >> shift)
    return code


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[-1]))
