# mypy: disable-error-code="no-untyped-def, attr-defined"
# (what Triton compiles takes pointers and tiles, which have no Python types)
"""Farthest-point sampling of a whole batch in one kernel: no host sync, ties to the lowest index.

A token's state is one float, its squared distance to what is chosen so far, with three marks: ``inf`` for a kept token that still
waits (so kept tokens go first, in order), ``UNSEEN`` for a token that nothing was compared with yet, -1 for one that is chosen
or dropped. Every step takes the largest state and lowers the others.

Several programs may share a row. Each owns a chunk of it; in every step they put their candidate into one 64-bit slot by atomic
maximum (distance above, reversed index below), count themselves in, and wait for the others. Waiting is safe because the grid is
launched cooperatively (all programs are resident, or the launch fails) and because every step has a slot of its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

UNSEEN = tl.constexpr(3.0e38)
LAST_INDEX = tl.constexpr(2**31 - 1)
TILE_ELEMENTS = 8192  # points x width held by a program at once
MIN_CHUNK = 256  # tokens: below this a program waits longer for the others than it works


@triton.jit
def _better(state, index, value, winner):
    """The larger of the largest state in a tile and what was best before; the lowest index wins a tie."""
    top = tl.max(state, 0)
    first = tl.min(tl.where(state == top, index, LAST_INDEX), 0)
    return tl.where(top > value, top, value), tl.where(top > value, first, winner)


@triton.jit
def _agree(slot, arrived, target, value, winner):
    """The best candidate of all programs of a row: atomic maximum into ``slot``, then wait until ``target`` have arrived."""
    rank = tl.where(value < 0, 0, value.to(tl.int32, bitcast=True).to(tl.int64) + 1)
    tl.atomic_max(slot, (rank << 32) | (-winner.to(tl.int64) + LAST_INDEX), sem="acq_rel")
    seen = tl.atomic_add(arrived, 1, sem="acq_rel") + 1
    while seen < target:
        seen = tl.atomic_add(arrived, 0, sem="acq_rel")
    key = tl.atomic_max(slot, tl.zeros([], tl.int64), sem="acq_rel")
    best = key >> 32
    value = tl.where(best == 0, -1.0, (best - 1).to(tl.int32).to(tl.float32, bitcast=True))
    return value, (-(key & 0xFFFFFFFF) + LAST_INDEX).to(tl.int32)


@triton.jit
def _farthest_points(
    x, keep, drop, chosen, valid, state, slots, arrived,
    tokens, width, count, prefix, chunk, stride_row, stride_token, first_program,
    HAS_KEEP: tl.constexpr, HAS_DROP: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    part, row = tl.program_id(0) + first_program, tl.program_id(1)
    x += row.to(tl.int64) * stride_row
    state += row * tokens
    low = part * chunk
    high = tl.minimum(low + chunk, tokens)
    axis = tl.arange(0, WIDTH)
    value = -2.0
    winner = tokens - 1
    for start in range(low, low + chunk, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < high
        now = tl.full([BLOCK], UNSEEN, tl.float32)
        if HAS_DROP:
            now = tl.where(tl.load(drop + row * tokens + index, mask=inside, other=1) != 0, -1.0, now)
        now = tl.where(index < prefix, float("inf"), now)
        if HAS_KEEP:
            now = tl.where(tl.load(keep + row * tokens + index, mask=inside, other=0) != 0, float("inf"), now)
        now = tl.where(inside, now, -1.0)
        tl.store(state + index, now, mask=inside)
        value, winner = _better(now, index, value, winner)
    for step in range(count):
        if PROGRAMS > 1:
            value, winner = _agree(slots + row * count + step, arrived + row, PROGRAMS * (step + 1), value, winner)
        last = tl.minimum(winner, tokens - 1)
        if part == 0:
            tl.store(chosen + row * count + step, last.to(tl.int64))
            tl.store(valid + row * count + step, (value >= 0).to(tl.int8))
        centre = tl.load(x + last.to(tl.int64) * stride_token + axis, mask=axis < width, other=0.0).to(tl.float32)
        value = -2.0
        tl.debug_barrier()  # the states stored by the other threads of this program are seen below
        for start in range(low, low + chunk, BLOCK):
            index = start + tl.arange(0, BLOCK)
            inside = index < high
            point = tl.load(
                x + index[:, None].to(tl.int64) * stride_token + axis[None, :],
                mask=inside[:, None] & (axis < width)[None, :],
                other=0.0,
            ).to(tl.float32)
            gap = point - centre[None, :]
            now = tl.load(state + index, mask=inside, other=-1.0)
            now = tl.where(now == float("inf"), now, tl.minimum(now, tl.sum(gap * gap, 1)))
            now = tl.where(index == last, -1.0, now)
            tl.store(state + index, now, mask=inside)
            value, winner = _better(now, index, value, winner)


def programs_per_row(rows: int, tokens: int, processors: int) -> int:
    """How many programs share a row: as many as the chip holds at once, as long as each has `MIN_CHUNK` tokens."""
    return max(1, min(processors // rows, triton.cdiv(tokens, MIN_CHUNK)))


def launch(
    x: Tensor,
    count: int,
    prefix: int = 0,
    keep: Tensor | None = None,
    drop: Tensor | None = None,
    *,
    programs: int = 1,
) -> tuple[Tensor, Tensor]:
    """Farthest points of each row; the arguments of `gpu.farthest_points`, and how many programs share a row."""
    x = x if x.stride(2) == 1 else x.contiguous()
    chosen, valid, state, shared = _buffers(x, count, programs)
    run_part(x, count, prefix, keep, drop, (chosen, valid, state, shared), programs, parts=programs)
    return chosen, valid


def _buffers(x: Tensor, count: int, programs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the kernel writes: choices, their validity, states, and for several programs the slots and arrival counters (zeros)."""
    rows, tokens, _ = x.shape
    chosen = x.new_empty((rows, count), dtype=torch.int64)
    valid = x.new_empty((rows, count), dtype=torch.bool)
    state = x.new_empty((rows, tokens), dtype=torch.float32)
    return chosen, valid, state, x.new_zeros(rows * (count + 1) if programs > 1 else 1, dtype=torch.int64)


def run_part(
    x: Tensor,
    count: int,
    prefix: int,
    keep: Tensor | None,
    drop: Tensor | None,
    buffers: tuple[Tensor, Tensor, Tensor, Tensor],
    programs: int,
    *,
    parts: int,
    first: int = 0,
) -> None:
    """Start programs ``first`` to ``first + parts`` of each row; a test starts them one by one, in processes of their own."""
    chosen, valid, state, shared = buffers
    rows, tokens, width = x.shape
    padded = triton.next_power_of_2(width)
    block = max(16, min(triton.next_power_of_2(tokens), TILE_ELEMENTS // padded))
    options = {} if programs == 1 else {"launch_cooperative_grid": True}
    slots = shared[rows:] if programs > 1 else shared
    _farthest_points[(parts, rows)](
        x, _bytes(keep, x), _bytes(drop, x), chosen, valid.view(torch.int8), state, slots, shared,
        tokens, width, count, prefix, triton.cdiv(tokens, programs), x.stride(0), x.stride(1), first,
        HAS_KEEP=keep is not None, HAS_DROP=drop is not None, PROGRAMS=programs, BLOCK=block, WIDTH=padded, num_warps=8, **options,
    )  # fmt: skip


def _bytes(mask: Tensor | None, x: Tensor) -> Tensor:
    """A mask as the kernel reads it; any tensor where there is none."""
    return x if mask is None else mask.expand(x.shape[:2]).contiguous().view(torch.int8)
