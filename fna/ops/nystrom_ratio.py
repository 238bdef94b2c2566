"""FNA's three factors under one normaliser in place of three softmaxes; PnP-Nystra (arXiv 2506.08520) has it for pooled ones.

With landmark tokens p, scale s and unnormalised kernels, b_r the same number for a landmark's row in A and in B:

    F = exp(s Q k_pᵀ)    A = exp(s q_p k_pᵀ - b)    B = exp(s q_p Kᵀ - b)
    out = F A⁺ B V / F A⁺ B 1

b is the log-sum-exp of A's row, so that A is FNA's own row-stochastic block and `fna.ops.inverse` applies; the inverse is
truncated, so the choice matters: with the maximum of B's row, A's rows would be of any size. Rows of F need no normaliser, it
cancels. Rows without a positive denominator: see `fna.ops.ratio`. The formula is derived, no paper's; time O(N M d + M^3) a
head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Site, refuse, same_tokens
from fna.ops.drawing import check_landmarks, check_sampler, draw
from fna.ops.inverse import Inverse, apply_inverse, full_precision
from fna.ops.landmarks import FarthestPoint, Landmarks, TokenSampler
from fna.ops.nystrom import additive, check_inverse
from fna.ops.ratio import ratio
from fna.ops.rows import gather_rows
from fna.ops.short import few_keys
from fna.values import Count, Positive, between


@dataclass(frozen=True)
class NystromRatio:
    """Nyström attention with one normaliser. Fields, and what is honoured and refused, are those of `FastNystrom`."""

    sampler: TokenSampler = field(default_factory=FarthestPoint)
    landmarks: Count | float = 64
    inverse: Inverse = "newton"
    steps: Annotated[int, between(1, 16)] = 6
    ridge: Positive = 1e-4
    resample_every: Annotated[int, between(0, 1_000)] = 0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)
        check_sampler(self, self.sampler, Landmarks)
        check_inverse(self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal", "dense")
        same_tokens(self, q, k, site)
        drawn = draw(self.sampler, q, k, v, site, self.landmarks, self.resample_every)
        kind = q.dtype
        q, k, v = (x.to(torch.promote_types(kind, torch.float32)) for x in (q, k, v))
        with site.clock("gather"):
            queries, keys, values = (gather_rows(x, drawn.index) for x in (q, k, v))
            bias = additive(site.keys, site.key_bias)
            few = torch.zeros_like(drawn.index, dtype=q.dtype) if bias is None else bias.gather(1, drawn.index).to(q.dtype)
            few = few if drawn.valid is None else few.masked_fill(~drawn.valid, float("-inf"))
        with full_precision(q):
            with site.clock("landmark block"):
                block, size = _block((site.scale * queries) @ keys.mT, few)
            with site.clock("landmarks over tokens"):
                logits = (site.scale * queries) @ k.mT
                logits = logits if bias is None else logits + bias[:, None, None].to(q.dtype)
                summary, mass = _summary(logits, v, size)
            with site.clock("inverse"):
                solved = apply_inverse(block, torch.cat((summary, mass), -1), self.inverse, self.steps, self.ridge)
            with site.clock("tokens over landmarks"):
                weights = _weights((site.scale * q) @ keys.mT + few[:, None, None])
                out = ratio(weights, solved[..., :-1], solved[..., -1:], lambda: few_keys(q, keys, values, site.scale, few))
        return out.to(kind)


def _block(logits: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of the landmarks' logits ``[B, H, M, M]`` and the log of its normaliser ``[B, H, M, 1]``.

    A landmark that does not count (bias -inf) is an identity row and a zero column, its normaliser infinite.
    """
    counts = (bias > float("-inf"))[:, None, :, None]
    shown = torch.where(counts.any(2, keepdim=True), bias[:, None, None], 0.0)
    logits = logits + shown
    block = torch.where(counts, logits.softmax(-1), torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device))
    return block, torch.where(counts, logits.logsumexp(-1, keepdim=True), float("inf"))


def _summary(logits: Tensor, v: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """``B V`` and ``B 1`` for logits ``[B, H, M, N]``, both divided by the largest mass of a head, which cancels in the ratio."""
    largest = logits.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    kernel = (logits - largest).exp()
    mass = kernel.sum(-1, keepdim=True)
    extra = largest + mass.clamp_min(torch.finfo(mass.dtype).tiny).log() - size  # of all keys over the landmarks, in logs
    extra = (extra - extra.amax(-2, keepdim=True).clamp_min(torch.finfo(mass.dtype).min)).exp()
    return (kernel @ v) / mass.clamp_min(torch.finfo(mass.dtype).tiny) * extra, extra * (mass > 0)


def _weights(logits: Tensor) -> Tensor:
    """Rows of F, each up to a factor of its own; all zero where nothing is seen."""
    return (logits - logits.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)).exp()
