# mypy: disable-error-code="no-untyped-def, attr-defined"
# (what Triton compiles takes pointers and tiles, which have no Python types)
"""Windows and clusters under one softmax in one launch: the formula at the head of fna/ops/local.py.

A program answers a square tile of the grid. It reads the halo of keys that the tile's windows reach twice, a few at a time:

    1. logits of the windows; their keys are taken out of the groups (products with 0/1 members: no scatter); the highest logit
    2. the logits again, now as shares of the one softmax; those of the groups are taken out of them, and values are summed

Products are of three tf32 ones, float32 to rounding, also for half inputs: what is taken out of a group must be what was put in.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fna.ops.kernels.cpu import _like
from fna.ops.kernels.nystrom import _dot, _head, _rows

SIDE = 8  # of a tile of queries: 144 keys for 64 queries with 5 x 5 windows
KEYS = 32  # of the halo at a time
RESIDUE = tl.constexpr(1e-5)  # as in fna/ops/local.py


@triton.jit
def _near(
    k, group, weight, query, top, left, first, query_row, query_column, axis, mark, scale, reach, rows, columns, kn, width,
    HAS_WEIGHT: tl.constexpr, SIDE: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Some keys of a halo: their cells, whether they are there; ``[Q, K]``: logits, the same with log weights
    in each window, weights; members ``[K, M]``."""
    halo = SIDE + 2 * reach
    number = first + tl.arange(0, KEYS)
    row, column = top - reach + number // halo, left - reach + number % halo
    there = (number < halo * halo) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    cell = tl.where(there, row * columns + column, 0)
    above, beside = tl.abs(query_row[:, None] - row[None, :]), tl.abs(query_column[:, None] - column[None, :])
    near = there[None, :] & (above <= reach) & (beside <= reach)
    key = _rows(k, cell.to(tl.int64), kn, axis, width, there).to(tl.float32)
    logits = _dot(query, tl.trans(key), "tf32x3") * scale
    counts = tl.where(near, 1.0, 0.0)
    if HAS_WEIGHT:
        counts *= tl.load(weight + cell, mask=there, other=0.0)[None, :]
    slot = tl.load(group + cell, mask=there, other=-1)
    members = tl.where(slot[:, None] == mark[None, :], 1.0, 0.0)
    seen = counts > 0
    weighed = tl.where(seen, logits + tl.log(tl.where(seen, counts, 1.0)), float("-inf"))
    return cell, there, logits, weighed, counts, members


@triton.jit
def _windowed(
    q, k, v, key_sums, value_sums, mass, group, weight, out, scale,
    heads, tokens, start, rows, columns, reach, groups, width,
    qb, qh, qn, kb, kh, kn, vb, vh, vn, ob, oh, on,
    HAS_WEIGHT: tl.constexpr, SIDE: tl.constexpr, KEYS: tl.constexpr, MARKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1)
    batch, head = pair // heads, pair % heads
    across = tl.cdiv(columns, SIDE)
    top, left = tl.program_id(0) // across * SIDE, tl.program_id(0) % across * SIDE
    number, axis, mark = tl.arange(0, SIDE * SIDE), tl.arange(0, WIDTH), tl.arange(0, MARKS)
    row, column = top + number // SIDE, left + number % SIDE
    asks = (row < rows) & (column < columns)
    own = tl.where(asks, row * columns + column, 0).to(tl.int64)
    q, k, v = _head(q, batch, head, qb, qh) + start * qn, _head(k, batch, head, kb, kh) + start * kn, _head(v, batch, head, vb, vh)
    v += start * vn
    group, weight = group + batch * tokens + start, weight + batch * tokens + start
    sums_of = pair.to(tl.int64) * groups * width
    query = _rows(q, own, qn, axis, width, asks).to(tl.float32)
    key_sum = _rows(key_sums + sums_of, mark, width, axis, width, mark < groups)
    whole = tl.load(mass + batch * groups + mark, mask=mark < groups, other=0.0)
    far = _dot(query, tl.trans(key_sum), "tf32x3") * scale
    rest = tl.zeros([SIDE * SIDE, MARKS], tl.float32) + whole[None, :]
    high = tl.full([SIDE * SIDE], float("-inf"), tl.float32)
    halo = (SIDE + 2 * reach) * (SIDE + 2 * reach)
    for first in range(0, halo, KEYS):
        _, _, logits, weighed, counts, members = _near(
            k, group, weight, query, top, left, first, row, column, axis, mark, scale, reach, rows, columns, kn, width,
            HAS_WEIGHT, SIDE, KEYS,
        )  # fmt: skip
        rest -= _dot(counts, members, "tf32x3")
        far -= _dot(counts * logits, members, "tf32x3")
        high = tl.maximum(high, tl.max(weighed, 1))
    left_over = rest > RESIDUE * whole[None, :]
    rest = tl.where(left_over, rest, 0.0)
    far = tl.where(left_over, far / tl.where(left_over, rest, 1.0), float("-inf"))
    high = tl.maximum(high, tl.max(far, 1))
    shift = tl.where(high == float("-inf"), 0.0, high)[:, None]  # -inf: it sees nothing
    far = tl.exp(far - shift)
    total = tl.sum(far * rest, 1)
    sums = _dot(far, _rows(value_sums + sums_of, mark, width, axis, width, mark < groups), "tf32x3")
    for first in range(0, halo, KEYS):
        cell, there, _, weighed, counts, members = _near(
            k, group, weight, query, top, left, first, row, column, axis, mark, scale, reach, rows, columns, kn, width,
            HAS_WEIGHT, SIDE, KEYS,
        )  # fmt: skip
        share = tl.exp(weighed - shift)
        total += tl.sum(share, 1)
        value = _rows(v, cell.to(tl.int64), vn, axis, width, there).to(tl.float32)
        sums += _dot(share - counts * _dot(far, tl.trans(members), "tf32x3"), value, "tf32x3")
    mixed = sums / tl.where(total == 0, 1.0, total)[:, None]
    place = _head(out, batch, head, ob, oh) + (start + own)[:, None] * on + axis[None, :]
    tl.store(place, mixed.to(out.dtype.element_ty), mask=asks[:, None] & (axis < width)[None, :])


def launch(
    q: Tensor, k: Tensor, v: Tensor, key_sums: Tensor, value_sums: Tensor, mass: Tensor, group: Tensor, start: int, rows: int,
    columns: int, reach: int, scale: float, weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The arguments of `fna.ops.kernels.cpu_local.windowed`; out like ``q``."""
    q, k, v = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (q, k, v))
    key_sums, value_sums, mass = (tensor.float().contiguous() for tensor in (key_sums, value_sums, mass))
    batch, heads, tokens, width = q.shape
    groups = mass.shape[1]
    out = _like(q)
    out[:, :, :start], out[:, :, start + rows * columns :] = 0, 0
    marks = max(16, triton.next_power_of_2(groups))
    _windowed[(triton.cdiv(rows, SIDE) * triton.cdiv(columns, SIDE), batch * heads)](
        q, k, v, key_sums, value_sums, mass, group.contiguous(), mass if weight is None else weight.float().contiguous(), out,
        scale, heads, tokens, start, rows, columns, reach, groups, width,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        HAS_WEIGHT=weight is not None, SIDE=SIDE, KEYS=KEYS, MARKS=marks, WIDTH=max(16, triton.next_power_of_2(width)),
        num_warps=8 if marks > 64 else 4, num_stages=1,
    )  # fmt: skip
    return out
