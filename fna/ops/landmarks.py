"""Landmarks that are tokens: which of them a method looks through. One set an image, shared by its heads.

A sampler is called with q, k, v ``[B, H, N, d]``, the site, how many landmarks, and which tokens must be in (``keep``) and must not
(``drop``), bool ``[N]`` or ``[B, N]``. Rows may differ in both; keep beats drop; kept tokens come first, in ascending order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Annotated, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.checks import check_grid
from fna.ops.contract import BadInput, Site, Unsupported, unread, whole
from fna.ops.farthest import farthest_points
from fna.ops.kernels import cpu
from fna.ops.seeded import uniform
from fna.spelling import nearest
from fna.values import MOST, between, plain

Features = Literal["q", "k", "v", "qk", "input", "sketch"]
FEATURES = get_args(Features)
SKETCH = 384  # numbers of a sketch
KNUTH = 2654435761  # whose multiples have scattered bits
LARGEST = 1e15  # of what distances are measured between: squares and their sums stay finite
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, spread evenly however many one takes


@dataclass(frozen=True, eq=False)
class Landmarks:
    """``index`` int64 ``[B, M]``: distinct tokens. ``valid`` bool ``[B, M]``: which entries count; None: all of them."""

    index: Tensor
    valid: Tensor | None = None


@runtime_checkable
class TokenSampler(Protocol):
    """Chooses tokens as landmarks; ``gives`` says so before the first call."""

    gives: ClassVar[type]

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Landmarks: ...


@dataclass(frozen=True)
class FarthestPoint:
    """Farthest-point sampling of ``features`` (see `features_of`), the kept tokens counted as chosen."""

    features: Features = "q"
    gives: ClassVar[type] = Landmarks
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_features(self.features)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Landmarks:
        x = features_of(self.features, q, k, v, site)
        kept, allowed = _masks(x, keep, drop)
        tokens = whole(x.shape[1])
        return _padded(farthest_points(x, min(count, tokens), kept, allowed), count, tokens, allowed)


@dataclass(frozen=True)
class Random:
    """Uniformly random tokens. The draw depends on (seed, layer, tokens, count) alone: the same for every image and batch size."""

    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    gives: ClassVar[type] = Landmarks
    version: ClassVar[int] = 1

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Landmarks:
        kept, allowed = _masks(q[:, 0], keep, drop)
        return _lowest(_random_scores(q[:, 0], count, self.seed, site.layer), count, kept, allowed)


@dataclass(frozen=True)
class Uniform:
    """Evenly spread tokens: over the grid of patches where there is one, along the sequence elsewhere."""

    gives: ClassVar[type] = Landmarks
    fixed: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Landmarks:
        kept, allowed = _masks(q[:, 0], keep, drop)
        return _lowest(_even_scores(q[:, 0], count, kept, allowed, site.tokens.grid, site.tokens.prefix), count, kept, allowed)


def sample_landmarks(
    x: Tensor,
    count: int,
    method: str = "fps",
    *,
    keep: Tensor | None = None,
    drop: Tensor | None = None,
    return_valid: bool = False,
    seed: int = 0,
    grid: tuple[int, int] | None = None,
    **unknown: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Choose ``count`` distinct tokens of ``x`` ``[B, N, D]``, kept ones first: int64 ``[B, count]``.

    ``method``: "fps", "random" (by ``seed``) or "uniform" (over ``grid``, the last rows x columns tokens, if given). ``keep`` and
    ``drop`` bool ``[N]`` or ``[B, N]``; keep beats drop; of more kept tokens than ``count`` the first ones are taken. With
    ``return_valid`` also a bool mask ``[B, count]``, False where a row has no more to give; without it that is a `BadInput`,
    as is for "fps" an ``x`` with NaN, or too large for distances, in a token that may be chosen.
    """
    if unknown:
        raise BadInput(_no_argument(next(iter(unknown))))
    if not isinstance(x, Tensor) or x.dim() != 3 or x.is_complex() or 0 in x.shape[1:]:
        told = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise BadInput(f"sample_landmarks needs x [batch, tokens, dim], a tensor of real numbers, none of it empty; got {told}.")
    count, seed = plain(count), plain(seed)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST:
        raise BadInput(f"count={count}: give a whole number from 1 to {MOST}, how many tokens to choose.")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BadInput(f"seed={seed}: give a whole number.")
    if grid is not None:
        check_grid(grid, x.shape[1])
    kept, allowed = _masks(x, keep, drop)
    if method == "fps":
        _check_size(x, allowed)
        found = _padded(farthest_points(x, min(count, x.shape[1]), kept, allowed), count, x.shape[1], allowed)
    elif method == "random":
        found = _lowest(_random_scores(x, count, seed, 0), count, kept, allowed)
    elif method == "uniform":
        prefix = 0 if grid is None else x.shape[1] - grid[0] * grid[1]
        found = _lowest(_even_scores(x, count, kept, allowed, grid, prefix), count, kept, allowed)
    else:
        raise BadInput(f"method={method}: choose one of fps, random, uniform.")
    if return_valid:
        return found.index, torch.ones_like(found.index, dtype=torch.bool) if found.valid is None else found.valid
    if found.valid is not None and not bool(found.valid.all()):
        fewest = int(found.valid.sum(1).min())  # not of an empty batch, whose mask is all true
        raise BadInput(f"count={count}: a row has only {fewest} tokens to give; ask for fewer, or set return_valid=True.")
    return found.index


def _check_size(x: Tensor, allowed: Tensor | None) -> None:
    """Raise `BadInput` for numbers of ``x`` ``[B, N, D]`` that have no distance: NaN, and those whose squares are too large."""
    if unread(x):
        return
    seen = x if allowed is None else x[allowed]
    if not bool((seen.float().abs() <= LARGEST).all()):
        raise BadInput(
            f"method=fps measures distances, and x holds NaN or numbers beyond {LARGEST:.0e}: mend these, leave their tokens out "
            "with drop, or take random or uniform."
        )


def _no_argument(name: str) -> str:
    """What is said of a keyword that `sample_landmarks` has not; elsewhere the method is called a sampler, the count landmarks."""
    known = ("count", "method", "keep", "drop", "return_valid", "seed", "grid")
    meant = {"sampler": "did you mean method? ", "landmarks": "did you mean count? "}.get(name) or nearest(name, known)
    return f"sample_landmarks has no argument {name}; {meant}beside x it has {', '.join(known)}."


def check_features(name: str) -> None:
    """Raise `BadInput` for a feature that no sampler can look at."""
    if name not in FEATURES:
        raise BadInput(f"features={name}: choose one of {', '.join(FEATURES)}.")


def features_of(name: str, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """What distances are measured on, float32 ``[B, N, D]``, detached.

    "q", "k", "v": the mean over heads, as the attention sees them (after any rotary embedding); "qk": both side by side; "input":
    the residual stream entering the block; "sketch": that, or where a call carries none all heads of q and k, folded to 384 numbers
    by fixed signs where it is wider (a count sketch, Charikar et al. 2002), which costs a read where a projection costs a product.
    """
    if name == "sketch":
        whole_heads = torch.cat([q, k], 1).transpose(1, 2).flatten(2) if site.hidden is None else site.hidden
        return _sketch(whole_heads.detach().float())
    if name == "input":
        if site.hidden is None:
            raise Unsupported(
                f"features=input needs the block's input (block {site.layer}), which this call does not carry: use features=q."
            )
        return site.hidden.detach().float()
    chosen = {"q": (q,), "k": (k,), "v": (v,), "qk": (q, k)}[name]
    means = [head_mean(part.detach()) for part in chosen]
    return means[0] if len(means) == 1 else torch.cat(means, -1)


def head_mean(x: Tensor) -> Tensor:
    """``[B, H, N, d]`` to its mean over heads in float32, ``[B, N, d]``: sums of strided heads are faster than their mean."""
    if cpu.reads(x):
        return cpu.head_mean(x)
    return reduce(torch.add, x.float().unbind(1)) / x.shape[1]


def _sketch(x: Tensor) -> Tensor:
    """``x`` ``[B, N, D]`` folded to at most `SKETCH` features: pieces of its width side by side, by fixed signs, summed."""
    width = x.shape[-1]
    if width <= SKETCH:
        return x
    signs = 1.0 - 2.0 * (torch.arange(width, device=x.device) * KNUTH >> 15 & 1)
    return F.pad(x * signs, (0, -width % SKETCH)).unflatten(-1, (-1, SKETCH)).sum(-2)


def _masks(x: Tensor, keep: Tensor | None, drop: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """``keep`` and "may be chosen", bool ``[B, N]`` each; None where that is nothing and everything."""
    batch, tokens = x.shape[0], whole(x.shape[1])
    for name, mask in (("keep", keep), ("drop", drop)):
        if mask is not None and not isinstance(mask, Tensor):
            raise BadInput(f"{name}={mask!r}: must be a bool tensor [{tokens}] or [{batch}, {tokens}].")
        if mask is not None and (mask.dtype != torch.bool or mask.shape not in ((tokens,), (batch, tokens))):
            raise BadInput(f"{name} must be bool [{tokens}] or [{batch}, {tokens}]; got {mask.dtype} {list(mask.shape)}.")
    kept = None if keep is None else keep.to(x.device).expand(batch, tokens)
    if drop is None:
        return kept, None
    allowed = ~drop.to(x.device).expand(batch, tokens)
    return kept, allowed if kept is None else allowed | kept


def _padded(index: Tensor, count: int, tokens: int, allowed: Tensor | None) -> Landmarks:
    """``index`` brought to ``count`` columns, with the mask of those that a row could fill."""
    if allowed is None and count <= tokens:
        return Landmarks(index)
    supply: Tensor | int = tokens if allowed is None else allowed.sum(1, keepdim=True)
    valid = (torch.arange(count, device=index.device) < supply).expand(index.shape[0], -1)
    return Landmarks(F.pad(index, (0, count - index.shape[1])), valid)


def _lowest(score: Tensor, count: int, kept: Tensor | None, allowed: Tensor | None) -> Landmarks:
    """The allowed tokens of lowest ``score`` (``[B, N]``, in 0..1), kept ones before all others."""
    tokens = whole(score.shape[1])
    if kept is not None:
        score = torch.where(kept, torch.arange(-tokens, 0, device=score.device, dtype=score.dtype), score)
    if allowed is not None:
        score = torch.where(allowed, score, 2.0)
    lowest = score.topk(min(count, tokens), 1, largest=False).indices  # ONNX knows no stable sort
    return _padded(lowest, count, tokens, allowed)


def _random_scores(x: Tensor, count: int, seed: int, layer: int) -> Tensor:
    """The same random order of the tokens for every row: ``[B, N]``."""
    tokens = whole(x.shape[1])
    return uniform((tokens,), seed, layer, tokens, count).to(x.device).expand(x.shape[0], -1)


def _even_scores(
    x: Tensor, count: int, kept: Tensor | None, allowed: Tensor | None, grid: tuple[int, int] | None, prefix: int
) -> Tensor:
    """Below one half for evenly spread tokens, above for the rest, which fill up in a spread-out order: ``[B, N]``."""
    batch, tokens = x.shape[0], whole(x.shape[1])
    position = torch.arange(tokens, device=x.device)
    if grid is not None:
        others = 0 if kept is None else tokens - grid[0] * grid[1]
        picks = prefix + torch.tensor(_lattice(*grid, count - others), device=x.device, dtype=torch.int64)
        picked = (position[:, None] == picks).any(1).expand(batch, tokens)
    else:
        free = torch.ones(batch, tokens, dtype=torch.bool, device=x.device) if allowed is None else allowed
        free = free if kept is None else free & ~kept
        wanted = count - (0 if kept is None else kept.sum(1, keepdim=True))
        picked = free & _strided(free, wanted)
    spread = (position + 1) * torch.tensor(GOLDEN, dtype=torch.float64, device=x.device) % 1.0
    return torch.where(picked, 0.5 * spread, 0.5 + 0.5 * spread)


def _strided(free: Tensor, wanted: Tensor | int) -> Tensor:
    """Every (free / wanted)-th of the free tokens of each row, starting half a stride in: bool ``[B, N]``, ``wanted`` a row."""
    rank = free.cumsum(1) - 1
    total = free.sum(1, keepdim=True).clamp_min(1)
    return ((2 * rank + 2) * wanted + total) // (2 * total) > (2 * rank * wanted + total) // (2 * total)


def _lattice(rows: int, columns: int, count: int) -> list[int]:
    """``count`` evenly spread cells of a grid, row-major: as many lines as make the steps square, cells shared out among them."""
    count = max(0, min(count, rows * columns))
    lines = min(rows, count, max(round((count * rows / columns) ** 0.5), -(-count // columns)))
    cells = []
    for line in range(lines):
        row = (2 * line + 1) * rows // (2 * lines)
        share = (line + 1) * count // lines - line * count // lines
        cells += [row * columns + (2 * i + 1) * columns // (2 * share) for i in range(share)]
    return cells
