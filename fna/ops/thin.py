"""Thinformer (Carrell et al. 2025, arXiv 2502.12063, section 4): attention over a coreset of the keys, thinned by kernel halving.

    κ(i, j) = exp(s k_i·k_j - s max |k|²) (v_i·v_j + |V|∞²)        out = softmax(s Q K_Cᵀ) V_C

Halving walks through pairs of tokens in order and keeps one of each: at random, but the likelier the one that brings the sum of
the kept ones nearer to that of the others in the kernel's space. Rounds of it within buckets, neighbouring buckets joined
between rounds, leave |C| tokens, unweighted.

Not kept: the released code first thins N to a power of four (64 of 197 tokens), so that |C| is a power of two times its root;
here to |C| 2^rounds, spread evenly over the sequence, so that any count can be asked and fewer tokens go unseen. A head's
coreset is its own, CLS not guaranteed in it, as released. Time O(N |C|² / 2^rounds + N |C| d) a head, with no kernel beyond a
bucket's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Site, refuse, whole
from fna.ops.drawing import check_landmarks, count_landmarks
from fna.ops.inverse import full_precision
from fna.ops.seeded import uniform
from fna.ops.short import few_keys
from fna.values import Count, between, within


@dataclass(frozen=True)
class Thin:
    """Attention over ``landmarks`` keys (a count, or a fraction of the tokens below 1), drawn in every block for every head.

    ``failure``: the probability δ that the halving's bound may fail with. Refuses ``keys`` and ``key_bias``: halving is between
    equals, and the same number of them in every image.
    """

    landmarks: Count | float = 64
    failure: Annotated[float, within(0, 1)] = 0.5
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q ``[B, H, Nq, d]``, k and v ``[B, H, Nk, d]`` to ``[B, H, Nq, d]`` in q's dtype."""
        refuse(self, site, "keys", "key_bias", "causal", "dense")
        tokens = whole(k.shape[2])
        count = count_landmarks(self.landmarks, tokens)
        with site.clock("sampling"), torch.no_grad(), full_precision(k):
            chosen = thinned(k, v, site.scale, count, self.failure, ("thin", self.seed, site.layer))
        with site.clock("gather"):
            keys, values = _rows(k, chosen), _rows(v, chosen)
        with site.clock("tokens over landmarks"):
            return few_keys(q, keys, values, site.scale, None).to(q.dtype)


def thinned(k: Tensor, v: Tensor, scale: float, count: int, failure: float, key: tuple[object, ...]) -> Tensor:
    """Every head's coreset, ascending: int64 ``[B, H, count]`` for k and v ``[B, H, N, d]``. ``key``: what the draws are for."""
    wide = torch.promote_types(k.dtype, torch.float32)
    k, v = k.to(wide) * abs(scale) ** 0.5, v.to(wide)
    tokens = whole(k.shape[2])
    rounds = int(math.log2(tokens // count))
    size = count * 2**rounds
    start = torch.arange(size, device=k.device) * tokens // size
    chosen = start.expand(*k.shape[:2], -1)
    norm = v.abs().amax((-2, -1), keepdim=True).square()
    for turn in range(rounds):
        length = size // buckets(size, count, rounds, turn)
        index = chosen.unflatten(2, (-1, length))
        keys, values = (_rows(x, chosen).unflatten(2, (-1, length)) for x in (k, v))
        draws = uniform((whole(k.shape[1]), size // length, length // 2 + 1), *key, tokens, count, turn).to(k.device, wide)
        kept = halved(_kernel(keys, values, norm[..., None]), draws, failure)
        chosen = index.gather(3, kept).flatten(2)
        size //= 2
    return chosen


def buckets(size: int, count: int, rounds: int, turn: int) -> int:
    """How many buckets ``size`` tokens are halved in: buckets of 4 count / 2^rounds, or as near above as divides evenly."""
    wanted = 2 ** max(0, 2 * rounds - turn - 2)
    twos = (size & -size) // 2  # the largest power of two that leaves buckets of an even length
    return min(wanted, twos)


def halved(kernel: Tensor, draws: Tensor, failure: float) -> Tensor:
    """Which half of each bucket is kept, ascending: int64 ``[..., n / 2]`` for kernels ``[..., n, n]`` of its tokens.

    ``draws`` ``[..., n / 2 + 1]`` in 0..1: one a pair, and one that says which of the two halves it is.
    """
    n = kernel.shape[-1]
    pair = kernel[..., 0::2] - kernel[..., 1::2]
    pair = pair[..., 0::2, :] - pair[..., 1::2, :]  # [..., n / 2, n / 2]: inner products of the pairs' differences
    spread = pair.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    slack = 0.5 + math.log(2 * n / failure)
    sign, largest = torch.zeros_like(spread), torch.zeros_like(spread[..., 0])
    for step in range(n // 2):
        largest = torch.maximum(largest, spread[..., step])
        lean = (sign * pair[..., step, :]).sum(-1)  # later pairs have no sign yet
        bound = (slack * spread[..., step] * largest).clamp_min(torch.finfo(kernel.dtype).tiny)
        sign[..., step] = torch.where(draws[..., step] < 0.5 * (1 - lean / bound), 1.0, -1.0)
    sign = torch.where(draws[..., -1:] < 0.5, sign, -sign)
    return 2 * torch.arange(n // 2, device=kernel.device) + (sign < 0).long()


def _kernel(k: Tensor, v: Tensor, norm: Tensor) -> Tensor:
    """κ of all tokens of a bucket: ``[B, H, buckets, n, n]``."""
    largest = k.square().sum(-1).amax((-2, -1))[..., None, None, None]
    return (k @ k.mT - largest).exp() * (v @ v.mT + norm)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[-1]))
