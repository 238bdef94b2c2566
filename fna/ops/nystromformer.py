"""Nyströmformer without training (Xiong et al. 2021, arXiv 2102.03902): Nyström attention through means of groups of tokens.

The factors are those of `fna.ops.nystrom`, with q_p and k_p the per-head means over runs of consecutive tokens (or over
k-means clusters) instead of tokens. Prefix tokens are groups of their own, which on a ViT is worth 1 to 8 points. The trained
model's depth-wise convolution over v is left out, as it needs trained weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.bias import seen_at
from fna.ops.centroids import Centroids, CentroidSampler, SegmentMeans, group_means, logarithm, typical
from fna.ops.contract import Site, pair_bias, refuse, same_tokens
from fna.ops.drawing import check_landmarks, check_sampler, draw
from fna.ops.inverse import Inverse
from fna.ops.nystrom import additive, check_inverse, through_landmarks
from fna.values import Count, Positive, between


@dataclass(frozen=True)
class Nystromformer:
    """Nyström attention through group means. Fields, and what is honoured and refused, are those of `FastNystrom`; of relative
    positions a group has those of its most typical token, as their means would need all N x N.

    ``key_bias`` b counts as exp(b) copies of a token: in the means, and as the groups' own bias.
    """

    sampler: CentroidSampler = field(default_factory=SegmentMeans)
    landmarks: Count | float = 64
    inverse: Inverse = "newton"
    steps: Count = 6
    ridge: Positive = 1e-4
    resample_every: Annotated[int, between(0, 1_000)] = 0
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)
        check_sampler(self, self.sampler, Centroids)
        check_inverse(self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal")
        relative = pair_bias(self, site)
        same_tokens(self, q, k, site)
        groups = draw(self.sampler, q, k, v, site, self.landmarks, self.resample_every)
        with site.clock("gather"):
            bias = additive(site.keys, site.key_bias)
            (q_means, k_means), mass = group_means(groups, bias, q, k)
            copies = torch.ones_like(mass) if bias is None else mass / groups.sizes.clamp_min(1)  # of a token, on average
            landmark_bias = logarithm(copies, mass > 0)
            pairs = None if relative is None else seen_at(relative, typical(k, groups), q.dtype)
        return through_landmarks(
            q, k, v, q_means, k_means, scale=site.scale, bias=bias, landmark_bias=landmark_bias, pairs=pairs,
            inverse=self.inverse, steps=self.steps, ridge=self.ridge, clock=site.clock,
        )  # fmt: skip
