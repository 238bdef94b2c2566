"""Windows and clusters under one softmax (`fna.ops.local.windowed`), fused for CPUs, in an operator to which `gpu` adds."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fna.ops.kernels.cpu import Long, _address, _like, _loaded, _scratch, _View, _view


class _Grid(ctypes.Structure):
    _fields_ = (
        *((name, _View) for name in ("q", "k", "v", "out")),
        *((name, ctypes.c_void_p) for name in ("key_sums", "value_sums", "mass", "weight", "group")),
        *((name, Long) for name in ("batches", "heads", "tokens", "start", "rows", "columns", "reach", "groups", "width")),
        ("scale", ctypes.c_float),
    )  # fmt: skip


@torch.library.custom_op("fna::windowed", mutates_args=(), device_types="cpu")
def windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_sums: Tensor,
    value_sums: Tensor,
    mass: Tensor,
    group: Tensor,
    start: int,
    rows: int,
    columns: int,
    reach: int,
    scale: float,
    weight: Tensor | None = None,
) -> Tensor:
    """q, k, v ``[B, H, N, d]``, sums of the groups ``[B, H, M, d]``, their mass ``[B, M]``, group int64 and weight ``[B, N]``.

    Gives ``[B, H, N, d]``: the answers of the grid's tokens, which start at ``start``, and zeros for the others.
    """
    batch, heads, tokens, width = q.shape
    out = _like(q)
    out[:, :, :start], out[:, :, start + rows * columns :] = 0, 0
    q, k, v = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (q, k, v))
    key_sums, value_sums, mass, group = (tensor.contiguous() for tensor in (key_sums, value_sums, mass, group))
    weight = None if weight is None else weight.to(torch.float32).contiguous()
    grid = _Grid(
        *(_view(tensor) for tensor in (q, k, v, out)),
        *map(_address, (key_sums, value_sums, mass, weight, group)),
        batch, heads, tokens, start, rows, columns, reach, mass.shape[1], width, scale,
    )  # fmt: skip
    library, threads = _loaded(), torch.get_num_threads()
    library.fna_local_scratch.restype = Long
    scratch = _scratch(q, threads * library.fna_local_scratch(ctypes.byref(grid)))
    library.fna_local(ctypes.byref(grid), _address(scratch), Long(threads))
    return out


@windowed.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, key_sums: Tensor, value_sums: Tensor, mass: Tensor, group: Tensor, start: int, rows: int,
    columns: int, reach: int, scale: float, weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return _like(q)


@register_flop_formula(torch.ops.fna.windowed)
def _windowed_flops(
    q: Sequence[int], k: Any, v: Any, key_sums: Sequence[int], value_sums: Any, mass: Any, group: Any, start: int, rows: int,
    columns: int, reach: int, *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """Two products with the groups and two with the window."""
    batch, heads, _, width = q
    return 4 * batch * heads * rows * columns * width * (key_sums[2] + (2 * reach + 1) ** 2)
