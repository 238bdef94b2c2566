"""What is added to the logit of a query and a key: relative positions, asked for a few rows and columns at a time.

A method that looks through M landmarks needs b[p, :], b[:, p] and b[p, p] alone, one that looks at windows those of each query
and the keys around it; nothing of size N x N has to be there. Each form is asked by ``rows``, ``columns`` and ``tiles``; results
broadcast to ``[B, H, ...]``, with 1 where images or heads share them. All entries are finite: what hides keys is a mask, a tensor
in `Site.dense`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class PairBias(Protocol):
    """A bias over N queries and N keys."""

    @property
    def tokens(self) -> int:
        """N."""
        ...

    def rows(self, index: Tensor) -> Tensor:
        """b[index, :] for ``index`` int64 ``[B, R]``, or ``[R]``, the same for all images: ``[B or 1, H or 1, R, N]``."""
        ...

    def columns(self, index: Tensor) -> Tensor:
        """b[:, index], ``index`` as for `rows`: ``[B or 1, H or 1, N, R]``."""
        ...

    def tiles(self, queries: Tensor, keys: Tensor) -> Tensor:
        """b[queries, keys] in each of T tiles, ``queries`` int64 ``[T, Q]``, ``keys`` ``[T, K]``: ``[B or 1, H or 1, T, Q, K]``."""
        ...


@dataclass(frozen=True, eq=False)
class Table:
    """All of it: ``values`` ``[B or 1, H or 1, N, N]``."""

    values: Tensor

    @property
    def tokens(self) -> int:
        return self.values.shape[-1]

    def rows(self, index: Tensor) -> Tensor:
        return _rows(self.values, index)

    def columns(self, index: Tensor) -> Tensor:
        return _rows(self.values.mT, index).mT

    def tiles(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self.values[:, :, queries[:, :, None], keys[:, None]]


@dataclass(frozen=True, eq=False)
class Indexed:
    """A number a head for each offset between two tokens: ``table`` ``[offsets, H]``, ``places`` int64 ``[N, N]`` (BEiT, Swin)."""

    table: Tensor
    places: Tensor

    @property
    def tokens(self) -> int:
        return self.places.shape[-1]

    def rows(self, index: Tensor) -> Tensor:
        return self._at(self.places[index])

    def columns(self, index: Tensor) -> Tensor:
        return self._at(self.places.T[index]).mT

    def tiles(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self.table.T[:, self.places[queries[:, :, None], keys[:, None]]][None]

    def _at(self, places: Tensor) -> Tensor:
        """``[(B,) R, N]`` -> ``[B or 1, H, R, N]``."""
        found = self.table.T[:, places]
        return found.transpose(0, 1) if places.dim() == 3 else found[None]


@dataclass(frozen=True, eq=False)
class Decomposed:
    """b[n, (y, x)] = down[n, y] + across[n, x]: ``down`` ``[B, H, N, rows]``, ``across`` ``[B, H, N, columns]`` of a grid whose
    cells, row by row, are the N tokens (MViTv2, arXiv 2112.01526, eq. 4; SAM). N (rows + columns) numbers a head."""

    down: Tensor
    across: Tensor

    @property
    def tokens(self) -> int:
        return self.down.shape[2]

    def rows(self, index: Tensor) -> Tensor:
        down, across = _rows(self.down, index), _rows(self.across, index)
        if index.dim() == 1:  # a run of queries for a fused kernel, which reads row by row
            return (down[..., None] + across[..., None, :]).flatten(-2)
        # Made with the queries along memory, as `fna.ops.kernels.cpu.few_queries` reads it.
        return (down.mT.contiguous()[:, :, :, None] + across.mT.contiguous()[:, :, None]).flatten(2, 3).mT

    def columns(self, index: Tensor) -> Tensor:
        wide = self.across.shape[-1]
        return _rows(self.down.mT, index // wide).mT + _rows(self.across.mT, index % wide).mT

    def tiles(self, queries: Tensor, keys: Tensor) -> Tensor:
        wide, queries, keys = self.across.shape[-1], queries[:, :, None], keys[:, None]
        return self.down[:, :, queries, keys // wide] + self.across[:, :, queries, keys % wide]


class Seen(NamedTuple):
    """What a method that looks through landmarks p needs of a bias: b[p, p], b[p, :], b[:, p], ``[B or 1, H or 1, ...]``."""

    block: Tensor
    rows: Tensor
    columns: Tensor


def seen_at(bias: PairBias | None, index: Tensor, dtype: torch.dtype) -> Seen | None:
    """The bias at landmarks ``index`` int64 ``[B, M]``; None where there is none."""
    if bias is None:
        return None
    rows, columns = bias.rows(index).to(dtype), bias.columns(index).to(dtype)
    at = index[:, None, None, :].expand(-1, rows.shape[1], rows.shape[2], -1)
    return Seen(rows.expand(index.shape[0], -1, -1, -1).gather(3, at), rows, columns)


def rows_of(dense: Tensor | PairBias | None, index: Tensor, queries: int) -> Tensor | None:
    """The rows ``index`` (``[R]`` or ``[B, R]``) of what `Site.dense` holds, a mask that broadcasts or a bias."""
    if dense is None or (isinstance(dense, Tensor) and (dense.dim() < 2 or dense.shape[-2] == 1)):
        return dense
    if isinstance(dense, Tensor):
        return _rows(dense[(None,) * (4 - dense.dim())].expand(-1, -1, queries, -1), index)
    return dense.rows(index)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """``x`` ``[B or 1, H, N, c]`` at ``index`` ``[R]`` or ``[B, R]`` -> ``[B or 1, H, R, c]``."""
    if index.dim() == 1:
        return x.index_select(2, index)
    if x.shape[0] == 1:
        return x[0].index_select(1, index.flatten()).unflatten(1, index.shape).transpose(0, 1)
    return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
