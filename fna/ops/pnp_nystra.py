"""PnP-Nystra without training (arXiv 2506.08520): Nyström attention through pooled landmarks, one normaliser for all three factors.

With q̄, k̄ the means over the cells of a grid, φ(x) = exp(min(x, 0)) + max(x, 0), and A⁺ by ``steps`` Newton-type steps:

    out = F A⁺ B V / F A⁺ B 1        F = φ(s Q k̄ᵀ)    A = φ(s q̄ k̄ᵀ)    B = φ(s q̄ Kᵀ)

φ is the released code's stand-in for exp that cannot overflow; it is kept, so even all tokens do not give softmax attention.
Its start of the inverse, which divides by a maximum over the whole batch, is not: ours is per matrix. Prefix and suffix tokens
are landmarks of their own (the restoration models it was made for have none). Rows without a positive denominator: see
`fna.ops.ratio`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Site, refuse, same_tokens
from fna.ops.drawing import check_landmarks
from fna.ops.grid import pooling
from fna.ops.inverse import apply_inverse, full_precision
from fna.ops.nystrom import additive
from fna.ops.ratio import ratio
from fna.ops.short import few_keys
from fna.values import Count, between


@dataclass(frozen=True)
class PnPNystra:
    """Through at most ``landmarks`` pooled tokens (a count, or a fraction of the tokens below 1).

    ``key_bias`` b counts as exp(b) copies of a token, in the means and in B. Honours ``keys`` too.
    """

    landmarks: Count | float = 64
    steps: Annotated[int, between(1, 16)] = 6
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal", "dense")
        same_tokens(self, q, k, site)
        kind = q.dtype
        q, k, v = (x.to(torch.promote_types(kind, torch.float32)) for x in (q, k, v))
        bias = additive(site.keys, site.key_bias)
        weights = None if bias is None else bias.exp().to(q.dtype)
        with full_precision(q):
            with site.clock("pooling"):
                pool = pooling(self, k, site, weights)
                queries, keys = site.scale * pool(q), pool(k)
                seen = (pool.masses(k) > 0).to(q.dtype)[:, None, None]  # a cell with nothing to see is no landmark
            with site.clock("landmark block"):
                alone = torch.diag_embed((1 - seen).squeeze(-2))
                block = phi(queries @ keys.mT) * seen * seen.mT + alone
            with site.clock("landmarks over tokens"):
                kernel = phi(queries @ k.mT) * seen.mT
                kernel = kernel if weights is None else kernel * weights[:, None, None]
                summary = torch.cat((kernel @ v, kernel.sum(-1, keepdim=True)), -1)
            with site.clock("inverse"):
                # Divided by its largest row sum a matrix meets what `apply_inverse` asks for; the factor cancels in the ratio.
                rows = block.sum(-1, keepdim=True).amax(-2, keepdim=True)
                solved = apply_inverse(block / rows, summary, "newton", self.steps)
            with site.clock("tokens over landmarks"):
                few = phi(site.scale * q @ keys.mT) * seen
                out = ratio(few, solved[..., :-1], solved[..., -1:], lambda: few_keys(q, keys, pool(v), site.scale, pool.bias()))
        return out.to(kind)


def phi(x: Tensor) -> Tensor:
    """exp(x) up to 0, 1 + x above."""
    return x.clamp_max(0).exp() + x.clamp_min(0)
