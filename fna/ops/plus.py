"""FNA+ (ours): Nyström attention through clusters, with their sizes and their mean values; for the late blocks of a transformer.

Tokens are sorted into M groups, prefix tokens groups of their own. With a head's means q̄, k̄, v̄ over groups of n members, scale s:

    A = softmax(s q̄ k̄^T + log n)         M x M: what a mean query sees of the groups, each as often as it has members
    u = softmax(s q̄ K^T) V                M x d: what it truly gets, a short fused attention
    w = v̄ + A^+ (u - A v̄)                 M x d: the groups' values, corrected until the mean queries get that
    out = softmax(s Q k̄^T + log n) w      tokens over groups

Single tokens as groups, n = 1 and zeros for v̄ make it `fna.ops.nystrom`. There a truncated inverse shrinks what it leaves out
towards nothing; here towards the group's mean value, which is what clustered attention answers (Vyas et al. 2020). A prefix
token's mean query is itself, so its row is u: the class token is exact at no cost. Time O(N M d + M^3) a head, nothing N x N.
docs/fna_plus.md: cost, each part switched off, where it fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.bias import seen_at
from fna.ops.centroids import Centroids, CentroidSampler, KMeans, group_means, logarithm, typical
from fna.ops.contract import Site, pair_bias, refuse, same_tokens
from fna.ops.drawing import check_landmarks, check_sampler, draw
from fna.ops.inverse import Inverse
from fna.ops.nystrom import additive, check_inverse, through_landmarks
from fna.values import Count, Positive, between


@dataclass(frozen=True)
class ClusterNystrom:
    """FNA+. ``early``: what draws the groups in the first half of the tower, anew in each block, as the stream changes fast there;
    ``sampler`` and ``resample_every``: in later blocks. ``sizes``, ``prior``, ``exact_prefix``: False leaves out log n, v̄ or the
    exact rows. The rest as `FastNystrom`.

    ``key_bias`` b counts as exp(b) copies of a token: in the means and in n. Of relative positions a group has those of its most
    typical token, as their means would need all N x N.
    """

    sampler: CentroidSampler = field(default_factory=lambda: KMeans(features="sketch", steps=1))
    early: CentroidSampler = field(default_factory=lambda: KMeans(features="k", steps=1))
    landmarks: Count | float = 64
    inverse: Inverse = "ridge"
    steps: Count = 6
    ridge: Positive = 3e-4
    resample_every: Annotated[int, between(0, 1_000)] = 0
    sizes: bool = True
    prior: bool = True
    exact_prefix: bool = True
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)
        check_sampler(self, self.sampler, Centroids)
        check_sampler(self, self.early, Centroids)
        check_inverse(self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal")
        relative = pair_bias(self, site)
        same_tokens(self, q, k, site)
        early = 2 * site.layer < site.depth
        sampler, every = (self.early, 1) if early else (self.sampler, self.resample_every)
        groups = draw(sampler, q, k, v, site, self.landmarks, every)
        with site.clock("gather"):
            bias = additive(site.keys, site.key_bias)
            (q_means, k_means, v_means), mass = group_means(groups, bias, q, k, v)
            landmark_bias = logarithm(mass if self.sizes else torch.ones_like(mass), mass > 0)
            pairs = None if relative is None else seen_at(relative, typical(k, groups), q.dtype)
            ends = _alone(groups, site.tokens.prefix) if self.exact_prefix and site.tokens.prefix else None
        return through_landmarks(
            q, k, v, q_means, k_means, scale=site.scale, bias=bias, landmark_bias=landmark_bias, pairs=pairs,
            prior=v_means if self.prior else None, ends=ends,
            inverse=self.inverse, steps=self.steps, ridge=self.ridge, clock=site.clock,
        )  # fmt: skip


def _alone(groups: Centroids, prefix: int) -> Tensor:
    """The groups of the first ``prefix`` tokens, int64 ``[B, prefix]``: -1 for a token that shares its group or has none."""
    group = groups.assignment[:, :prefix]
    return torch.where(groups.sizes.gather(1, group.clamp_min(0)) == 1, group, -1)
