"""Policies that choose among the image tokens in front of the decoder: one image at a time, before block 0.

Axes: ``V`` image tokens of one image, ``n`` kept ones, ``D`` width of the decoder, ``F`` of the tower's features. What is left
keeps its column, and with it its position. Each image is looked at alone, so nothing depends on batch mates or on a second image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fna.kv.contract import Block, Positions, Stay
from fna.kv.select import counts
from fna.values import Budget


class Tower(Protocol):
    """What can be asked of the vision tower that has just run: `fna.surgery.sight.Sight`. ``T``: all image tokens of the batch."""

    grid: tuple[int, int] | None

    def features(self) -> Tensor:
        """What the projector was given, ``[T, F]``."""
        ...

    def attention(self, block: int, split: bool) -> Tensor:
        """Softmax weights of the CLS token on each patch, ``[T, H]``; one head as wide as all where not ``split``."""
        ...

    def keys(self, block: int) -> Tensor:
        """Keys of the patches, ``[T, H, d]``."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """``[n, F]`` through the projector, ``[n, D]``."""
        ...


@dataclass(frozen=True, eq=False)
class Picture:
    """One image's tokens: ``hidden`` ``[V, D]`` as they enter the decoder, ``text`` ``[T, D]`` of its row, what the ``tower`` saw.

    ``part``: where they lie among all image tokens of the batch. ``grid``: rows and columns of patches, None where the tokens are
    no single grid (tiles, several images side by side).
    """

    hidden: Tensor
    text: Tensor
    tower: Tower
    part: slice

    @property
    def count(self) -> int:
        """How many tokens there are."""
        return len(self.hidden)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns, where the tokens are one image's patches in raster order."""
        grid = self.tower.grid
        return grid if grid is not None and grid[0] * grid[1] == self.count else None

    @property
    def features(self) -> Tensor:
        """The tower's features ``[V, F]``, float32."""
        return self.tower.features()[self.part].float()

    def attention(self, block: int, split: bool = True) -> Tensor:
        """The CLS token's weights ``[V, H]`` in a block of the tower (-1: the last), float32."""
        return self.tower.attention(block, split)[self.part]

    def keys(self, block: int) -> Tensor:
        """Keys ``[V, H, d]`` of a block of the tower, float32."""
        return self.tower.keys(block)[self.part].float()


@dataclass(frozen=True, eq=False)
class Choice:
    """``index`` int64 ``[n]``, distinct; the tokens' new ``features`` ``[n, F]`` before the projector or ``hidden`` ``[n, D]``
    behind it, both None: as they were."""

    index: Tensor
    features: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True)
class ImageTokens:
    """``budget``: how many of an image's tokens are kept, a share up to 1 or a count. A method says which: `choose`.

    ``eyes``: whether it asks what the vision tower saw, beside what enters the decoder.
    """

    budget: Budget = 0.25
    positions: Positions = field(default="original", kw_only=True)
    eyes: ClassVar[bool] = False

    def choose(self, picture: Picture, count: int) -> Choice:
        """``count`` of the tokens, at most ``picture.count``."""
        raise NotImplementedError

    def prune(self, block: Block) -> Stay | None:
        """Before block 0: what `choose` says of each image. A budget of all tokens changes nothing."""
        if block.layer or not bool(block.image.any()):
            return None
        tower: Tower = block.memo["sight"]
        stay, hidden = ~block.image, block.hidden.clone()
        first = 0
        for row, columns in images(block.image):
            picture = Picture(block.hidden[row, columns], _text(block, row), tower, slice(first, first + len(columns)))
            first += len(columns)
            count = int(counts(self.budget, torch.tensor(len(columns))))
            if count == len(columns):
                stay[row, columns] = True
                continue
            choice = self.choose(picture, count)
            chosen = columns[choice.index]
            stay[row, chosen] = True
            new = choice.hidden if choice.features is None else tower.project(choice.features)
            if new is not None:
                hidden[row, chosen] = new.to(hidden.dtype)
        return None if bool(stay.all()) else Stay(stay, hidden)


def images(mask: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each run of image columns in ``mask`` bool ``[B, n]``: its row and its columns, ascending."""
    for row, held in enumerate(mask):
        columns = held.nonzero()[:, 0]
        cuts = (columns.diff() > 1).nonzero()[:, 0] + 1
        for run in columns.tensor_split(cuts.cpu()):
            if len(run):
                yield row, run


def _text(block: Block, row: int) -> Tensor:
    """Embeddings ``[T, D]`` of a row's tokens behind its first image that are neither image nor padding."""
    columns = torch.arange(block.image.shape[1], device=block.image.device)
    behind = columns > columns[block.image[row]][0]
    return block.hidden[row, behind & block.there[row] & ~block.image[row]]


def top(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest of ``scores`` ``[V]``, ascending; the earlier of equals."""
    return torch.sort(scores, descending=True, stable=True).indices[:count].sort().values


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """``[A, B]`` cosines of the rows of ``a`` ``[A, F]`` and ``b`` ``[B, F]``; 0 where one is zero."""
    return torch.nn.functional.normalize(a.float(), dim=-1) @ torch.nn.functional.normalize(b.float(), dim=-1).mT


def rest(count: int, index: Tensor) -> Tensor:
    """The indices below ``count`` that are not in ``index``, ascending."""
    left = torch.ones(count, dtype=torch.bool, device=index.device)
    left[index] = False
    return left.nonzero()[:, 0]


def smaller_grid(grid: tuple[int, int], count: int) -> tuple[int, int]:
    """(rows, columns) of a coarser grid: the one most like ``grid`` in shape of those with at least 95 % of ``count`` cells and no
    more, else the one with most cells."""
    rows, columns = grid
    found = [(r, min(columns, count // r)) for r in range(1, min(rows, count) + 1)]
    most = max(r * c for r, c in found)
    enough = [(r, c) for r, c in found if r * c >= min(most, 0.95 * count)]
    return min(enough, key=lambda cells: max(cells[0] * columns / (cells[1] * rows), cells[1] * rows / (cells[0] * columns)))


def centres(grid: tuple[int, int], coarse: tuple[int, int]) -> Tensor:
    """Of each cell of a ``coarse`` grid, in raster order, the index of the token of ``grid`` in its middle."""
    rows, columns = ((2 * torch.arange(few) + 1) * many // (2 * few) for many, few in zip(grid, coarse, strict=True))
    return (rows[:, None] * grid[1] + columns).flatten()
