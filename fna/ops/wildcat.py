"""WildCat (Schröder and Mackey, ICML 2026, arXiv 2602.10056, algorithms 1 to 3): attention over a weighted coreset of the keys.

With scale s, keys recentred to mean zero and a temperature τ, h(a, b) = exp(s a·b / τ²), a head's own coreset S by randomly
pivoted Cholesky on h, and W = h(K_S, K_S)⁻¹ h(K_S, K) the weights that reconstruct all keys from it best:

    out_i = Σ_S exp(s q_i·k_S) (W V)_S / Σ_S exp(s q_i·k_S) (W 1)_S        clipped to the range of each channel of V

    τ² = R_K / R_Q · b / (2 W₀(b / 2ρ₀)),   b = log N / (s R_Q R_K) + 2,   ρ₀ = sqrt(1 + exp(W₀(2 / e²) + 2))

R_Q and R_K are the largest norms of queries and recentred keys, W₀ Lambert's function. Kept of the released code: recentring,
τ, clipping, and working with the Gaussian kernel exp(-s |a - b|² / 2τ²), which is h up to a factor a key. Not kept: global
random numbers (ours are a site's own) and a division by any denominator (see `fna.ops.ratio`); bins are left out. Time O(N M d
+ N M²) a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Site, refuse, same_tokens, whole
from fna.ops.drawing import check_landmarks, count_landmarks
from fna.ops.inverse import full_precision
from fna.ops.nystrom import additive
from fna.ops.ratio import ratio
from fna.ops.seeded import uniform
from fna.values import Count, between

TWO_RHO_0 = 6.383202050647408  # as released; a comment there has 2 W₀ in the exponent, which makes 7.06


@dataclass(frozen=True)
class WildCat:
    """Attention over ``landmarks`` weighted keys (a count, or a fraction of the tokens below 1), drawn in every block.

    ``key_bias`` b counts as exp(b) copies of a token. Honours ``keys`` too. Runs in float32 at least.
    """

    landmarks: Count | float = 64
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal", "dense")
        same_tokens(self, q, k, site)
        kind, heads, tokens = q.dtype, whole(k.shape[1]), whole(k.shape[2])
        count = count_landmarks(self.landmarks, tokens)
        q, k, v = (x.to(torch.promote_types(kind, torch.float32)) for x in (q, k, v))
        bias = additive(site.keys, site.key_bias)
        weights = k.new_ones(1, tokens) if bias is None else bias.exp().to(k.dtype)
        weights = weights[:, None, :, None]  # [B or 1, 1, N, 1]
        with full_precision(q):
            with site.clock("sampling"):
                k = k - (k * weights).sum(2, keepdim=True) / weights.sum(2, keepdim=True).clamp_min(1e-30)
                x = k * (abs(site.scale) ** 0.5 / temperature(q, k, weights, abs(site.scale)))
                draws = uniform((heads, count), "wildcat", self.seed, site.layer, tokens, count).to(k)
                index, valid = pivoted_cholesky(x, weights, draws)
            with site.clock("gather"):
                keys, values, few = (_rows(t, index) for t in (k, v, x))
            with site.clock("weights"):
                mass = (x.square().sum(-1, keepdim=True) / 2).masked_fill(weights == 0, float("-inf"))
                mass = weights * (mass - mass.amax(2, keepdim=True).clamp_min(-1e30)).exp()
                kernel = gaussian(few, x) * valid[..., None]
                solved = _solve(few, valid, kernel @ (mass * torch.cat((v, torch.ones_like(v[..., :1])), -1)))
            with site.clock("tokens over landmarks"):
                plain = ((site.scale * q) @ keys.mT).masked_fill(~valid[:, :, None], float("-inf"))
                logits = plain - few.square().sum(-1)[:, :, None] / 2
                rows = (logits - logits.amax(-1, keepdim=True).clamp_min(-1e30)).exp()
                out = ratio(rows, solved[..., :-1], solved[..., -1:], lambda: plain.softmax(-1).nan_to_num(0.0) @ values)
        return _clipped(out, v, weights > 0).to(kind)


def temperature(q: Tensor, k: Tensor, weights: Tensor, scale: float) -> Tensor:
    """τ of a head ``[B, H, 1, 1]`` for q, recentred k ``[B, H, N, d]`` and ``scale`` of at least 0, over tokens of some weight."""
    seen = weights > 0
    largest_q, largest_k = (x.norm(dim=-1, keepdim=True).where(seen, 0.0).amax(2, keepdim=True).clamp_min(1e-6) for x in (q, k))
    tokens = weights.sum(2, keepdim=True).clamp_min(1.0)
    b = tokens.log() / (scale * largest_q * largest_k).clamp_min(1e-6) + 2
    return (largest_k / largest_q * b / (2 * lambert(b / TWO_RHO_0))).sqrt()


def lambert(x: Tensor) -> Tensor:
    """W₀(x) for positive x: w exp(w) = x, by Newton's method on log w + w = log x."""
    target = x.log()
    w = torch.where(x > math.e, target.clamp_min(1.0), x / (1 + x))
    for _ in range(6):
        w = w * (1 + target - w.log()) / (1 + w)
    return w


def gaussian(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a - b|² / 2) of every two rows: ``[..., M, d]``, ``[..., N, d]`` to ``[..., M, N]``."""
    norms = a.square().sum(-1, keepdim=True) + b.square().sum(-1)[..., None, :]
    return (a @ b.mT - norms / 2).clamp_max(0).exp()


@torch.no_grad()
def pivoted_cholesky(x: Tensor, weights: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Pivots of h on the rows of ``x`` ``[B, H, N, d]``: int64 ``[B, H, M]``, and bool of the same shape, which of them count.

    Every pivot is drawn by what is left of h's diagonal times ``weights`` ``[B, 1, N, 1]``, with ``draws`` ``[H, M]`` in 0..1. Once
    nothing is left but rounding, pivots no longer count.
    """
    tiny = 10 * torch.finfo(x.dtype).eps
    half = x.square().sum(-1) / 2
    size = (weights[..., 0].log() + 2 * half).where(weights[..., 0] > 0, float("-inf"))
    size = (size - size.amax(-1, keepdim=True).clamp_min(-1e30)).exp()  # of h, of which the loop keeps the Gaussian part
    left = torch.ones_like(half) * (weights[..., 0] > 0)
    factor = x.new_zeros(*half.shape, draws.shape[1])  # [B, H, N, M]: columns of Cholesky
    pivots, valid = [], []
    for step, draw in enumerate(draws.unbind(1)):
        share = torch.where(left > tiny, left * size, 0.0).cumsum(-1)
        pivot = (share > draw[:, None] * (1 - 1e-6) * share[..., -1:]).to(torch.uint8).argmax(-1, keepdim=True)  # [B, H, 1]
        here = left.gather(-1, pivot)
        row = x.gather(2, pivot[..., None].expand(-1, -1, -1, x.shape[-1]))
        known = factor.gather(2, pivot[..., None].expand(-1, -1, -1, factor.shape[-1]))[..., :step]
        column = gaussian(row, x)[:, :, 0] - (factor[..., :step] @ known.mT)[..., 0]
        counts = here > tiny
        column = torch.where(counts, column / here.clamp_min(tiny).sqrt(), 0.0)
        factor[..., step] = column
        left = (left - column.square()).clamp_min(0).scatter(-1, pivot, 0.0)
        pivots.append(pivot)
        valid.append(counts & (share[..., -1:] > 0))
    return torch.cat(pivots, -1), torch.cat(valid, -1)


def _solve(few: Tensor, valid: Tensor, rhs: Tensor) -> Tensor:
    """``h(K_S, K_S)⁻¹ rhs`` for the Gaussian part of h, in float64: the smallest pivots leave float32 nothing. Others give 0."""
    block = gaussian(few.double(), few.double()) * (valid[..., None] & valid[..., None, :])
    block = block + torch.diag_embed(1e-12 + (~valid).double())
    factor = torch.linalg.cholesky_ex(block)[0]
    return torch.cholesky_solve(rhs.double(), factor).to(rhs.dtype)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[-1]))


def _clipped(out: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """``out`` within the least and the largest that a channel of the values to be seen has: attention is a mean of them."""
    low = v.masked_fill(~seen, float("inf")).amin(2, keepdim=True)
    high = v.masked_fill(~seen, float("-inf")).amax(2, keepdim=True)
    return torch.where(low > high, 0.0, torch.minimum(torch.maximum(out, low), high))
