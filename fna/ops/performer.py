"""Performer's FAVOR+ without training (Choromanski et al. 2021, arXiv 2009.14794, lemma 1): positive random features of the kernel.

    φ(x) = m^-1/2 (exp(ω x - |x|² / 2 - c) + ε),  x = s^1/2 q or s^1/2 k,  ω [m, d] orthogonal in blocks, rows of normal length
    out = φ(Q) (φ(K)ᵀ V) / φ(Q) (φ(K)ᵀ 1)

c is the largest feature of a query, and of a head's keys together. ε = 1e-4 is added after the exponential, as in the released
code, and m = d log d as there. A negative control: its variance grows with exp(|q|² + |k|²), and pretrained models have large
norms. Time O(N m d) a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Site, refuse, whole
from fna.ops.inverse import full_precision
from fna.ops.nystrom import additive
from fna.ops.seeded import normal
from fna.values import Count, between

EPSILON = 1e-4


@dataclass(frozen=True)
class Performer:
    """``features``: m, None for d log d. Honours ``keys`` and ``key_bias``; refuses ``causal`` and ``dense``. Float32 at least."""

    features: Count | None = None
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    version: ClassVar[int] = 1

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q ``[B, H, Nq, d]``, k and v ``[B, H, Nk, d]`` to ``[B, H, Nq, d]`` in q's dtype."""
        refuse(self, site, "causal", "dense")
        kind, width = q.dtype, whole(q.shape[-1])
        q, k, v = (x.to(torch.promote_types(kind, torch.float32)) for x in (q, k, v))
        with site.clock("sampling"):
            count = self.features or max(1, int(width * math.log(width)))
            omega = orthogonal(count, width, self.seed, site.layer).to(q)
        bias = additive(site.keys, site.key_bias)
        with full_precision(q), site.clock("features"):
            root = abs(site.scale) ** 0.5
            at_q, at_k = _exponents(q * math.copysign(root, site.scale), omega), _exponents(k * root, omega)
            at_q = at_q - at_q.amax(-1, keepdim=True)
            seen = at_k if bias is None else at_k.masked_fill(bias.isneginf()[:, None, :, None], float("-inf"))
            at_k = at_k - seen.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(q.dtype).min)
            phi_q, phi_k = at_q.exp() + EPSILON, at_k.clamp_max(0).exp() + EPSILON
            if bias is not None:
                phi_k = phi_k * bias.exp()[:, None, :, None].to(phi_k.dtype)
        with full_precision(q), site.clock("attention"):
            sums = phi_q @ (phi_k.mT @ torch.cat((v, torch.ones_like(v[..., :1])), -1))
            return (sums[..., :-1] / sums[..., -1:].clamp_min(torch.finfo(sums.dtype).tiny)).to(kind)


def orthogonal(count: int, width: int, seed: int, layer: int) -> Tensor:
    """ω ``[count, width]`` in float64: blocks of orthogonal rows, each as long as an independent normal vector."""
    blocks = -(-count // width)
    bases = torch.linalg.qr(normal((blocks, width, width), "performer", seed, layer, width, blocks))[0].mT
    lengths = normal((count, width), "performer lengths", seed, layer, width, count).norm(dim=1, keepdim=True)
    return bases.reshape(-1, width)[:count] * lengths


def _exponents(x: Tensor, omega: Tensor) -> Tensor:
    return x @ omega.mT - x.square().sum(-1, keepdim=True) / 2
