"""The grid of patches: what a method that pools or looks around needs to know of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fna.ops.contract import Site, Unsupported, whole
from fna.ops.drawing import count_landmarks


@dataclass(frozen=True, eq=False)
class Pooling:
    """Cells of the grid, the windows of torch's adaptive average pooling; prefix and suffix tokens stay as they are.

    ``weights`` ``[B, N]``: what each token counts for, None: 1 each.
    """

    prefix: int
    grid: tuple[int, int]
    cells: tuple[int, int]
    weights: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Weighted means of ``x`` ``[B, H, N, d]``: ``[B, H, M, d]``, prefix, cells row by row, suffix. Empty cells are 0."""
        first, patches, last = self._parts(x.to(torch.promote_types(x.dtype, torch.float32)), 2)
        weights = self._patch_weights(patches)
        means = self._sums(patches * weights) / self._sums(weights).clamp_min(torch.finfo(patches.dtype).tiny)
        return torch.cat((first, means, last), 2).to(x.dtype)

    def masses(self, like: Tensor) -> Tensor:
        """What each pooled token of ``like`` ``[B, H, N, d]`` counts for: its tokens' weights, ``[B or 1, M]``."""
        weights = like.new_ones(1, whole(like.shape[2]), dtype=torch.float32) if self.weights is None else self.weights
        first, patches, last = self._parts(weights, 1)
        return torch.cat((first, self._sums(patches[:, None, :, None])[:, 0, :, 0], last), 1)

    def bias(self) -> Tensor | None:
        """Added to the logits of the pooled tokens as keys, ``[B, M]``: log of the mean weight of what is seen, or -inf."""
        if self.weights is None:
            return None
        seen = Pooling(self.prefix, self.grid, self.cells, (self.weights > 0).to(self.weights.dtype))
        of = self.weights[:, None, :, None]
        return (self.masses(of) / seen.masses(of).clamp_min(1)).log()

    def _parts(self, x: Tensor, dim: int) -> tuple[Tensor, ...]:
        held = self.grid[0] * self.grid[1]
        return x.split([self.prefix, held, whole(x.shape[dim]) - self.prefix - held], dim)

    def _patch_weights(self, patches: Tensor) -> Tensor:
        if self.weights is None:
            return torch.ones_like(patches[:1, :1, :, :1])
        return self._parts(self.weights, 1)[1][:, None, :, None].to(patches.dtype)

    def _sums(self, x: Tensor) -> Tensor:
        """Sums over the cells of ``x`` ``[B, H, patches, d]``, one axis of the grid after the other: O(sqrt(M) N d)."""
        if 0 in self.grid:
            return x[:, :, :0]
        down, across = (_windows(size, parts, x) for size, parts in zip(self.grid, self.cells, strict=True))
        x = torch.einsum("jc,bhrcd->bhrjd", across, x.unflatten(2, self.grid))
        return torch.einsum("ir,bhrjd->bhijd", down, x).flatten(2, 3)


def pooling(op: Any, k: Tensor, site: Site, weights: Tensor | None) -> Pooling:
    """At most ``op.landmarks`` pooled tokens of k's ``[B, H, N, d]``, prefix and suffix among them; one cell at least.

    Warns where cells of one size make another count than was asked for.
    """
    rows, columns = grid_of(op, k, site)
    tokens = whole(k.shape[2])
    asked, ends = count_landmarks(op.landmarks, tokens), tokens - rows * columns
    down, across = cells(rows, columns, asked - ends)
    if ends + down * across != asked:
        warnings.warn(
            f"{type(op).__name__}: {ends + down * across} landmarks run, not {asked}: {down} x {across} cells of {rows} x "
            f"{columns} patches and {ends} other tokens.",
            stacklevel=3,
        )
    return Pooling(site.tokens.prefix, (rows, columns), (down, across), weights)


def grid_of(op: object, k: Tensor, site: Site) -> tuple[int, int]:
    """(rows, columns) of the patches; one row of all where the sequence has no grid. `Unsupported` once tokens were merged."""
    if site.tokens.grid is not None:
        return site.tokens.grid
    if site.tokens.version:
        raise Unsupported(
            f"{type(op).__name__} needs a grid of patches, and tokens were merged or dropped before block {site.layer}: "
            "use attn=fna there, which needs none."
        )
    return 1, whole(k.shape[2]) - site.tokens.prefix - site.tokens.suffix


def cells(rows: int, columns: int, count: int) -> tuple[int, int]:
    """How many cells down and across: at most ``count`` of them, one at least, as square as that allows."""
    if not rows * columns:
        return 0, 0
    across = min(columns, max(1, round((max(count, 1) * columns / rows) ** 0.5)))
    down = min(rows, max(1, count // across))
    return down, min(columns, max(1, count // down))


def _windows(size: int, parts: int, like: Tensor) -> Tensor:
    """Which of ``size`` positions lie in which window: the i-th goes from floor(i size / parts) to ceil((i + 1) size / parts)."""
    at, part = torch.arange(size, device=like.device), torch.arange(parts, device=like.device)[:, None]
    return ((at >= part * size // parts) & (at < -(-(part + 1) * size // parts))).to(like.dtype)
