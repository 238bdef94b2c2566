"""Neighbourhoods on a grid of tokens, cut into tiles: a square of queries and the halo of keys that its windows reach.

The window of a token is the square of ``2 reach + 1`` cells a side around it, as far as the grid goes. With tiles of
t x t queries a halo has (t + 2 reach)^2 keys, so work and memory are linear in the tokens; halos are moved inwards at the edges,
so that all their keys are there and nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 3  # of a tile: 49 keys for 9 queries with 5 x 5 windows; smaller ones copy more, larger ones multiply more in vain


@dataclass(frozen=True, eq=False)
class Tiles:
    """Cells are numbered row by row. ``queries`` int64 ``[T, Q]``, ``keys`` ``[T, K]``: the cells of each tile and of its halo.

    ``near`` bool ``[T, Q, K]``: which keys are in the window of which query. ``place`` int64 ``[cells]``: where among the
    ``T * Q`` queries a cell is (a tile that sticks out of the grid repeats the last cells).
    """

    queries: Tensor
    keys: Tensor
    near: Tensor
    place: Tensor


def tiles(grid: tuple[int, int], reach: int, device: torch.device) -> Tiles:
    """The tiles of a grid of (rows, columns) cells."""
    (rows, row_halo, row_near), (columns, column_halo, column_near) = (_along(cells, reach, device) for cells in grid)
    row, column = (torch.arange(cells, device=device) for cells in grid)
    tile = row[:, None] // SIDE * len(columns) + column // SIDE
    within = row[:, None] % SIDE * SIDE + column % SIDE
    return Tiles(
        queries=_cells(rows, columns, grid[1]),
        keys=_cells(row_halo, column_halo, grid[1]),
        near=(row_near[:, None, :, None, :, None] & column_near[None, :, None, :, None, :]).flatten(4).flatten(2, 3).flatten(0, 1),
        place=(tile * SIDE * SIDE + within).flatten(),
    )


def _along(cells: int, reach: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """One axis: queries ``[t, SIDE]`` and keys ``[t, K]`` of every strip, and which are near ``[t, SIDE, K]``."""
    start = torch.arange(0, cells, SIDE, device=device)[:, None]
    halo = min(cells, SIDE + 2 * reach)
    queries = (start + torch.arange(SIDE, device=device)).clamp_max(cells - 1)
    keys = (start - reach).clamp(0, cells - halo) + torch.arange(halo, device=device)
    return queries, keys, (queries[:, :, None] - keys[:, None, :]).abs() <= reach


def _cells(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Numbers of the cells where strips of rows ``[r, a]`` and of columns ``[c, b]`` cross: ``[r * c, a * b]``."""
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(2).flatten(0, 1)
