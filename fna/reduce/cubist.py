"""CubistMerge: merging that keeps a grid (2025, arXiv 2509.21764; no code is known, the order of matching is our reading).

In three blocks the same number of merges is made in every row of the grid, then in every column: patches at even places of a line
look at their neighbours at odd ones, by the cosine of head-mean keys, and the most alike pairs of each line become one. The merged
token has, channel by channel, the entry of largest magnitude. Rows and columns stay straight: what needs a grid still has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.contract import Tokens, Unsupported
from fna.reduce.joining import Joining, joining, kept_of, mean, patches, renewed, rows, sizes_of, summed
from fna.reduce.matching import likeness
from fna.reduce.stages import at_stage
from fna.surgery.reduce import Place
from fna.values import between


@dataclass(frozen=True)
class Cubist:
    """``keep``: share of the rows and of the columns that stays at each of three stages."""

    keep: Annotated[float, between(0.5, 1)] = 0.85
    proportional: bool = False
    version: ClassVar[int] = 1

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        """``x`` ``[B, N, D]`` on a grid of fewer rows and columns."""
        if not at_stage(place) or self.keep == 1:
            return x, place.tokens
        grid = place.tokens.grid
        if grid is None:
            raise Unsupported(f"reduce=Cubist needs tokens on a grid, which block {place.layer} has none of: use reduce=tome.")
        if all(kept_of(self.keep, side) == side for side in grid):
            return x, place.tokens
        first, last = patches(place.tokens, x.shape[1])
        body, keys = (values[:, first:last].unflatten(1, grid) for values in (x, place.keys()))
        sizes = sizes_of(place.tokens, x)[:, first:last].unflatten(1, grid)
        body, keys, sizes, columns = along(body, keys, sizes, self.keep)
        body, _, _, lines = along(body.transpose(1, 2), keys.transpose(1, 2), sizes.transpose(1, 2), self.keep)
        body, lines = body.transpose(1, 2), lines.transpose(1, 2).gather(2, columns)
        after = int(body.shape[1]), int(body.shape[2])
        ends = torch.arange(x.shape[1], device=x.device)
        target = torch.where(ends < last, ends, ends - (last - first) + after[0] * after[1]).expand(x.shape[:2])
        target = torch.cat([target[:, :first], (first + lines * after[1] + columns).flatten(1), target[:, last:]], dim=1)
        out = torch.cat([x[:, :first], body.flatten(1, 2), x[:, last:]], dim=1)
        counts = summed(sizes_of(place.tokens, x), target, out.shape[1])
        return out, renewed(place.tokens, target, counts, self.proportional, after)


def along(body: Tensor, keys: Tensor, sizes: Tensor, keep: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merges in each of L lines of n: features ``[B, L, n, D]``, keys ``[B, L, n, d]``, sizes ``[B, L, n]``, all with fewer in each
    line, and the new place in its line of each token, int64 ``[B, L, n]``."""
    batch, lines, count = sizes.shape
    flat = [values.flatten(0, 1) for values in (body, keys, sizes)]
    join = neighbours(likeness(flat[1]), count - kept_of(keep, count))
    if join is None:
        return body, keys, sizes, torch.arange(count, device=body.device).expand(batch, lines, -1)
    merged = largest(flat[0], join), mean(flat[1], flat[2], join), summed(flat[2], join.target, join.kept.shape[1]), join.target
    features, means, weights, target = (values.unflatten(0, (batch, lines)) for values in merged)
    return features, means, weights, target


def neighbours(metric: Tensor, r: int) -> Joining | None:
    """In each line ``[B, n, d]`` the ``r`` most alike pairs of an even place and the more alike of its odd neighbours."""
    count = metric.shape[1]
    if r < 1 or count < 2:
        return None
    alike = (metric[:, 1:] * metric[:, :-1]).sum(-1)  # place i and i + 1
    alike = F.pad(alike, (1, 1), value=float("-inf"))
    best, side = torch.stack([alike[:, :-1:2], alike[:, 1::2]], -1).max(-1)
    chosen = best.argsort(dim=1, descending=True, stable=True)[:, :r]
    gone = 2 * chosen
    return joining(gone, gone - 1 + 2 * side.gather(1, chosen), count)


def largest(x: Tensor, join: Joining) -> Tensor:
    """Channel by channel the entry of largest magnitude of what was joined, of equal ones the positive: ``[B, K, D]``."""
    old, gone = rows(x, join.kept), rows(x, join.gone)
    index = join.into[..., None].expand_as(gone)
    high, low = (old.scatter_reduce(1, index, gone, which) for which in ("amax", "amin"))
    return torch.where(high >= -low, high, low)
