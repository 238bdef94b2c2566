"""Agent attention without training (Han et al. 2024, arXiv 2312.08874, equation 4; constants of its training-free form, AgentSD).

A few agents ask in the place of all queries, and the queries then ask the agents:

    out = softmax(s^κ Q Aᵀ) softmax(s A Kᵀ) V + shortcut V        A: queries pooled on the grid, κ = 0.3, shortcut = 0.075

κ and the shortcut (a token's own value) are AgentSD's constants and can be changed; κ = 1, shortcut = 0 is equation 4. Not kept:
AgentSD finds its agents by merging tokens before the query projection, here they are pooled queries as in the trained model, and
prefix and suffix tokens are agents of their own; AgentSD answers exactly where agents are more than half the tokens. The trained
model's biases and depth-wise convolution need training. Time O(N M d) a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fna.ops.contract import Site, refuse, same_tokens
from fna.ops.drawing import check_landmarks
from fna.ops.grid import pooling
from fna.ops.nystrom import additive
from fna.ops.short import few_keys, few_queries
from fna.values import Count, NotNegative


@dataclass(frozen=True)
class Agent:
    """Through at most ``landmarks`` agents (a count, or a fraction of the tokens below 1).

    Honours ``keys`` and ``key_bias``, in whose absence a token's weight is 1: agents are means by weight, and a token's own value
    counts by its weight, up to 1.
    """

    landmarks: Count | float = 64
    kappa: NotNegative = 0.3
    shortcut: NotNegative = 0.075
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal", "dense")
        same_tokens(self, q, k, site)
        bias = additive(site.keys, site.key_bias)
        weights = None if bias is None else bias.exp()
        with site.clock("pooling"):
            pool = pooling(self, q, site, weights)
            agents = pool(q)
            few = None if weights is None else (pool.masses(q) > 0).log()  # an agent of nothing is none
        with site.clock("agents over tokens"):
            values = few_queries(agents, k, v, site.scale, bias).to(v.dtype)
        with site.clock("tokens over agents"):
            out = few_keys(q, agents, values, math.copysign(abs(site.scale) ** self.kappa, site.scale), few)
            own = v if weights is None else v * weights.clamp_max(1)[:, None, :, None].to(v.dtype)
            return (out + self.shortcut * own).to(q.dtype)
