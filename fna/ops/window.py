"""Neighbourhood attention on the grid of patches (Hassani et al. 2023, arXiv 2204.07143, equation 2), prefix tokens seen by all.

Every patch attends to a window of w x w patches around it and to all prefix and suffix tokens, under one softmax; prefix and
suffix tokens attend to everything. At a border the window is shifted inside, as in NATTEN, so that every patch sees as many; an
even w reaches one further to the left. Trained models learn with it; here a frozen model is handed it.

Patches are taken in tiles: a tile's windows together are one slightly larger window, gathered once. Time and memory O(N (2 w)²
d) a head.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.bias import PairBias, rows_of
from fna.ops.contract import Site, pair_bias, refuse, same_tokens, whole
from fna.ops.grid import grid_of
from fna.ops.nystrom import additive
from fna.ops.short import few_queries
from fna.values import Count


@dataclass(frozen=True)
class Window:
    """``window``: patches along a side, at most the grid's. Honours ``keys``, ``key_bias`` and relative positions, of which it asks
    those of each query and the keys of its tile; refuses ``causal``, and any other ``dense``.

    Without a grid the window runs along the sequence; once tokens were merged or dropped there is none, which is refused.
    """

    window: Count = 7
    version: ClassVar[int] = 1

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal")
        relative = pair_bias(self, site)
        same_tokens(self, q, k, site)
        rows, columns = grid_of(self, k, site)
        if self.window >= max(rows, columns):
            said = f"window={self.window} is no smaller than the {rows} x {columns} patches there are: each of them sees all."
            warnings.warn(said, stacklevel=2)
        bias = additive(site.keys, site.key_bias)
        ends = torch.arange(whole(k.shape[2]), device=k.device)
        ends = torch.cat((ends[: site.tokens.prefix], ends[site.tokens.prefix + rows * columns :]))
        parts = []
        if rows * columns:
            with site.clock("windows"):
                parts.append(self._patches(q, k, v, site, (rows, columns), ends, bias, relative))
        if len(ends):
            with site.clock("prefix over tokens"):
                pairs = rows_of(relative, ends, q.shape[2])
                parts.append(few_queries(q[:, :, ends], k, v, site.scale, bias, pairs).to(q.dtype))
        if len(parts) == 1:
            return parts[0]
        patches, others = parts
        return torch.cat((others[:, :, : site.tokens.prefix], patches, others[:, :, site.tokens.prefix :]), 2)

    def _patches(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        site: Site,
        grid: tuple[int, int],
        ends: Tensor,
        bias: Tensor | None,
        relative: PairBias | None,
    ) -> Tensor:
        """Outputs of the patches alone, ``[B, H, rows x columns, d]``."""
        (query_rows, key_rows, see_rows), (query_columns, key_columns, see_columns) = (
            tiles(size, min(self.window, size), k.device) for size in grid
        )
        queries = site.tokens.prefix + _pairs(query_rows, query_columns, grid[1])  # [tiles, queries of a tile]
        keys = site.tokens.prefix + _pairs(key_rows, key_columns, grid[1])
        near = see_rows[:, None, :, None, :, None] & see_columns[None, :, None, :, None, :]
        near = near.reshape(*queries.shape, keys.shape[1])
        keys = torch.cat((ends.expand(keys.shape[0], -1), keys), 1)
        seen = torch.cat((near.new_ones(*near.shape[:2], len(ends)), near), 2)[None]  # [1, tiles, queries, keys]
        if bias is not None:
            seen = torch.where(seen, bias[:, keys][:, :, None], float("-inf")).to(q.dtype).repeat_interleave(q.shape[1], 0)
        if relative is not None:
            pairs = relative.tiles(queries, keys).to(q.dtype).expand(*q.shape[:2], -1, -1, -1).flatten(0, 1)
            seen = pairs.masked_fill(~seen, float("-inf")) if bias is None else pairs + seen
        asked, found, values = (x.flatten(0, 1)[:, index] for x, index in ((q, queries), (k, keys), (v, keys)))
        out = F.scaled_dot_product_attention(asked, found, values, attn_mask=seen, scale=site.scale).to(q.dtype)
        (tile_row, spot_row), (tile_column, spot_column) = _homes(query_rows, grid[0]), _homes(query_columns, grid[1])
        tile = tile_row[:, None] * query_columns.shape[0] + tile_column
        spot = spot_row[:, None] * query_columns.shape[1] + spot_column
        home = (tile * queries.shape[1] + spot).flatten()
        return out.flatten(1, 2)[:, home].unflatten(0, q.shape[:2])


def tiles(size: int, window: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """One axis in tiles of about half a window: queries ``[T, t]``, keys ``[T, l]``, who sees whom ``[T, t, l]``.

    Every position is in some tile; the last tile overlaps the one before it where they do not come out even.
    """
    length = min(max(2, (window + 1) // 2), size)
    count = -(-size // length)
    first = (torch.arange(count, device=device) * length).clamp_max(size - length)
    queries = first[:, None] + torch.arange(length, device=device)
    start = (queries - window // 2).clamp(0, size - window)  # of each position's window
    reach = min(length + window - 1, size)
    keys = start[:, :1].clamp_max(size - reach) + torch.arange(reach, device=device)
    apart = keys[:, None, :] - start[:, :, None]
    return queries, keys, (apart >= 0) & (apart < window)


def _homes(queries: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """In which tile of an axis each of its positions is looked up, and where in it: ``[size]`` each."""
    at = torch.arange(size, device=queries.device)
    tile = at // queries.shape[1]
    return tile, at - queries[tile, 0]


def _pairs(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Patch numbers of every tile of two axes: ``[R, r]`` and ``[C, c]`` to ``[R C, r c]``."""
    number = rows[:, None, :, None] * width + columns[None, :, None, :]
    return number.flatten(2).flatten(0, 1)
