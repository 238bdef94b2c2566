"""Fast Nyström Attention (Lu et al. 2025, arXiv 2507.16018): softmax attention through a few tokens of the image itself.

With landmark tokens p, q_p = Q[p], k_p = K[p] and s the scale (facts/paper_and_peers.md §1.6):

    A = softmax(s q_p k_p^T)              M x M, the landmark block
    u = softmax(s q_p K^T) V              landmarks over tokens, a short fused attention
    out = softmax(s Q k_p^T) (A^+ u)      tokens over landmarks, another one

Relative positions b are added to the logits: b[p, p] in A, b[p, :] in u, b[:, p] in the last. Nothing of size N x N is made;
time O(N M d + M^3) a head. A^+ is truncated on purpose: see `fna.ops.inverse`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from fna.ops import inverse as _inverse
from fna.ops.absorbed import absorbed_nystrom, absorbs, mean_queries
from fna.ops.bias import PairBias, Seen, seen_at
from fna.ops.contract import (
    BadInput,
    Clock,
    Projections,
    Site,
    Unsupported,
    no_clock,
    pair_bias,
    refuse,
    same_tokens,
    whole,
)
from fna.ops.drawing import check_landmarks, check_sampler, count_landmarks, draw, drawn_before
from fna.ops.inverse import METHODS, Inverse, apply_inverse, cheapest, full_precision
from fna.ops.kernels import differentiated, gpu, unpatched
from fna.ops.kernels.cpu_nystrom import nystrom
from fna.ops.landmarks import FarthestPoint, Landmarks, TokenSampler
from fna.ops.rows import gather_rows
from fna.ops.short import both_by_kernels, few_keys, few_queries
from fna.values import Count, Positive, between

# Each step inverts singular values 1.8 times smaller, and amplifies what they hold. Output error of the embedded CLIP, last half,
# with 16, 64 and 256 landmarks: 0.14, 0.07, 0.08 at 6 steps, 0.13, 0.09, 0.003 at 16; 0.38, 0.35, 0.09 at 30, on the way to
# inverse=exact (0.38, 0.51, 0.23). So in float32 and below 16 are the most; in float64 there is no bound, for limit tests.
MOST_STEPS = 16


@dataclass(frozen=True)
class FastNystrom:
    """Nyström attention through tokens chosen by ``sampler``, the same for all heads and, by default, all later layers.

    ``landmarks``: a count, or a fraction of the tokens below 1. ``inverse``, ``steps``, ``ridge``: see `apply_inverse`.
    ``resample_every``: 0 draws once a forward pass, r anew every r layers. Honours ``keys``, ``key_bias`` and relative
    positions; refuses ``causal``, any other ``dense``, and queries that are not the keys' tokens.
    """

    sampler: TokenSampler = field(default_factory=FarthestPoint)
    landmarks: Count | float = 64
    inverse: Inverse = "newton"
    steps: Count = 6
    ridge: Positive = 1e-4
    resample_every: Annotated[int, between(0, 1_000)] = 0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)
        check_sampler(self, self.sampler, Landmarks)
        check_inverse(self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal")
        relative = pair_bias(self, site)
        same_tokens(self, q, k, site)
        drawn = draw(self.sampler, q, k, v, site, self.landmarks, self.resample_every)
        return fast_nystrom(
            q, k, v, drawn.index, scale=site.scale, valid=drawn.valid, keys=site.keys, key_bias=site.key_bias, relative=relative,
            inverse=self.inverse, steps=self.steps, ridge=self.ridge, clock=site.clock,
        )  # fmt: skip

    def absorbed(self, x: Tensor, around: Projections, site: Site) -> Tensor | None:
        """Tokens ``x`` ``[B, N, D]`` before their projections to what leaves the block's attention, where it pays and landmarks are
        drawn already or by what needs no more than the mean of all queries (`fna.ops.absorbed`); else None.
        """
        if self.landmarks >= x.shape[1] or self.inverse == "exact" or not _as_written():
            return None
        count = count_landmarks(self.landmarks, x.shape[1])
        if not absorbs(x, count, around):
            return None
        drawn = drawn_before(self.sampler, x.shape[0], x.shape[1], site, count, self.resample_every)
        if drawn is None and self.sampler == FarthestPoint(features="q"):
            mean = mean_queries(x, around)
            drawn = draw(self.sampler, mean, mean, mean, site, self.landmarks, self.resample_every)
        if drawn is None or drawn.valid is not None:
            return None
        check_steps(x, self.inverse, self.steps)
        steps, ridge = _steps(self.inverse, self.steps, self.ridge, count)
        with site.clock("attention and its projections"):
            return absorbed_nystrom(x, drawn.index, around, scale=site.scale, steps=steps, ridge=ridge)


def check_inverse(op: Any) -> None:
    """Raise `BadInput` for values of ``inverse``, ``steps``, ``ridge`` and ``resample_every`` that no Nyström method can use, and
    for those that ``inverse=auto`` would pass over: a result would tell another setting than ran."""
    if op.inverse not in METHODS:
        raise BadInput(f"inverse={op.inverse}: choose one of {', '.join(METHODS)}.")
    if not isinstance(op.steps, int) or isinstance(op.steps, bool) or op.steps < 1:
        raise BadInput(f"steps={op.steps}: give at least 1 Newton step, a whole number.")
    if not 0 < op.ridge < float("inf"):
        raise BadInput(f"ridge={op.ridge}: must be above 0.")
    if not isinstance(op.resample_every, int) or isinstance(op.resample_every, bool) or op.resample_every < 0:
        raise BadInput(f"resample_every={op.resample_every}: give 0 (draw once) or a number of layers.")
    for name, value in (("steps", op.steps), ("ridge", op.ridge)):
        if op.inverse == "auto" and value != getattr(type(op), name):
            raise BadInput(f"{name}={value}: inverse=auto has its own; leave it out, or name the inverse.")


def check_steps(q: Tensor, inverse: str, steps: int) -> None:
    """Raise `Unsupported` for more Newton steps than the numbers of ``q`` bear."""
    if inverse == "newton" and steps > MOST_STEPS and q.dtype != torch.float64:
        raise Unsupported(
            f"steps={steps}: give at most {MOST_STEPS} Newton steps; more of them near inverse=exact, which is worse."
        )


def fast_nystrom(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    *,
    scale: float,
    valid: Tensor | None = None,
    keys: Tensor | None = None,
    key_bias: Tensor | None = None,
    relative: PairBias | None = None,
    inverse: str = "newton",
    steps: Count = 6,
    ridge: Positive = 1e-4,
    clock: Clock = no_clock,
) -> Tensor:
    """The method as a pure function: q, k, v ``[B, H, N, d]``, landmark tokens ``index`` int64 ``[B, M]``, to ``[B, H, N, d]``.

    ``valid`` bool ``[B, M]``: which landmarks count (a row may have fewer). ``keys`` bool and ``key_bias`` float ``[B, N]`` as in
    `Site`; a landmark that may not be seen is left out. ``relative``: what is added to the logits of query and key.
    """
    check_steps(q, inverse, steps)
    plain = valid is None and keys is None and key_bias is None and relative is None and _as_written()
    newton = inverse == "newton" and steps == gpu.STEPS
    if plain and newton and not differentiated(k, v) and gpu.available(q, index.shape[1]):
        with clock("kernels"):
            return gpu.fast_nystrom(q, k, v, index, scale)
    few = whole(index.shape[1])
    if plain and inverse != "exact" and both_by_kernels(q, k, v, q[:, :, :few], k[:, :, :few]):
        with clock("kernels"):
            return _fused(q, k, v, q, k, index, scale, inverse, steps, ridge)
    with clock("gather"):
        q_landmarks, k_landmarks = gather_rows(q, index), gather_rows(k, index)
        bias = additive(keys, key_bias)
        landmark_bias = None if bias is None else bias.gather(1, index)
        if valid is not None:
            landmark_bias = additive(valid, landmark_bias)
        pairs = seen_at(relative, index, q.dtype)
    return through_landmarks(
        q, k, v, q_landmarks, k_landmarks, scale=scale, bias=bias, landmark_bias=landmark_bias, pairs=pairs,
        inverse=inverse, steps=steps, ridge=ridge, clock=clock,
    )  # fmt: skip


def additive(seen: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """One float bias ``[B, N]`` of a bool mask and a bias, either of them None: -inf where not seen."""
    if seen is None:
        return bias
    return torch.where(seen, 0.0 if bias is None else bias, float("-inf"))


def through_landmarks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_landmarks: Tensor,
    k_landmarks: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    landmark_bias: Tensor | None = None,
    pairs: Seen | None = None,
    prior: Tensor | None = None,
    ends: Tensor | None = None,
    inverse: str = "newton",
    steps: Count = 6,
    ridge: Positive = 1e-4,
    clock: Clock = no_clock,
) -> Tensor:
    """The three factors, for landmarks of any kind, ``[B, H, M, d]`` each.

    ``bias`` ``[B, N]`` and ``landmark_bias`` ``[B, M]`` are added to the logits of tokens and of landmarks as keys, -inf leaving
    one out, ``pairs`` to those of each query and key. ``prior`` ``[B, H, M, d]``: values w0 of the landmarks, A^+ u becoming
    w0 + A^+ (u - A w0); None: zeros. ``ends`` int64 ``[B, P]``: the landmarks that the first P tokens are, whose rows are then u
    itself, exact; -1 for a token that is none. An image left with no landmark gives zeros.
    """
    check_steps(q, inverse, steps)
    as_they_are = all(added is None for added in (bias, landmark_bias, pairs, prior, ends))
    if as_they_are and _as_written() and inverse != "exact" and both_by_kernels(q, k, v, q_landmarks, k_landmarks):
        with clock("kernels"):
            every = torch.arange(q_landmarks.shape[2]).expand(q.shape[0], -1)
            return _fused(q, k, v, q_landmarks, k_landmarks, every, scale, inverse, steps, ridge)
    counts = None if landmark_bias is None else landmark_bias > float("-inf")
    alive = None if counts is None else counts.any(-1, keepdim=True)
    if landmark_bias is not None and alive is not None:
        landmark_bias = torch.where(alive, landmark_bias, 0.0)
    with clock("landmark block"):
        block = landmark_block(q_landmarks, k_landmarks, scale, landmark_bias, counts, pairs and pairs.block)
    with clock("landmarks over tokens"):
        summary = few_queries(q_landmarks, k, v, scale, bias, pairs and pairs.rows)
    with clock("inverse"):
        values = _values(block, summary, prior, inverse, steps, ridge).to(v.dtype)
        if alive is not None:
            values = values * alive[:, None, :, None]
    with clock("tokens over landmarks"):
        out = few_keys(q, k_landmarks, values, scale, landmark_bias, pairs and pairs.columns).to(q.dtype)
        return out if ends is None else _with_exact_rows(out, summary, ends)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, q_source: Tensor, k_source: Tensor, index: Tensor, scale: float, inverse: str, steps: int,
    ridge: float,
) -> Tensor:  # fmt: skip
    """The three factors by one kernel, to rounding what the pieces give; landmarks: rows ``index`` of the sources."""
    steps, ridge = _steps(inverse, steps, ridge, whole(index.shape[1]))
    return nystrom(q, k, v, q_source, k_source, index, scale, steps, ridge)


def _steps(inverse: str, steps: int, ridge: float, marks: int) -> tuple[int, float]:
    """An inverse as our kernels take it: how many of Newton's steps, none for the ridge, and the ridge."""
    if inverse == "auto":
        inverse, steps, ridge = cheapest(marks)
    return (steps if inverse == "newton" else 0), ridge


def _values(block: Tensor, summary: Tensor, prior: Tensor | None, inverse: str, steps: int, ridge: float) -> Tensor:
    """What the landmarks stand for: ``A^+ u``, or the prior corrected by the same inverse, float32 ``[B, H, M, d]`` at least."""
    if prior is None:
        return apply_inverse(block, summary, inverse, steps, ridge)
    with full_precision(block):
        start = prior.to(block.dtype)
        return start + apply_inverse(block, summary.to(block.dtype) - block @ start, inverse, steps, ridge)


def _with_exact_rows(out: Tensor, summary: Tensor, ends: Tensor) -> Tensor:
    """``out`` ``[B, H, N, d]`` with ``summary``'s rows at the first tokens, where those are landmarks of their own."""
    first = out[:, :, : ends.shape[1]]
    rows = summary.gather(2, ends.clamp_min(0)[:, None, :, None].expand_as(first)).to(out.dtype)
    rows = torch.where((ends >= 0)[:, None, :, None], rows, first)
    if out.requires_grad or torch.compiler.is_compiling():
        return torch.cat([rows, out[:, :, ends.shape[1] :]], 2)
    first.copy_(rows)
    return out


def landmark_block(
    q: Tensor, k: Tensor, scale: float, bias: Tensor | None, counts: Tensor | None, pairs: Tensor | None = None
) -> Tensor:
    """``A`` ``[B, H, M, M]`` in float32 at least. A landmark that does not count is an identity row and a zero column."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    with full_precision(q):
        logits = (q.to(dtype) * scale) @ k.to(dtype).mT
        logits = logits if pairs is None else logits + pairs.to(dtype)
        if bias is None or counts is None:
            return logits.softmax(-1)
        block = (logits + bias[:, None, None, :].to(dtype)).softmax(-1)
        return torch.where(counts[:, None, :, None], block, torch.eye(q.shape[2], dtype=dtype, device=q.device))


_as_written = unpatched(globals(), vars(_inverse))
