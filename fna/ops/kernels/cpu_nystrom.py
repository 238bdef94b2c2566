"""The three factors of Nyström attention (`fna.ops.nystrom`) fused for CPUs: one operator, one parallel region.

What lies between the two short attentions costs little where it is warm, and two to four times that as torch calls in a model,
whose other layers have emptied the caches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fna.ops.kernels.cpu import Long, _address, _like, _loaded, _newton_flops, _ridge_flops, _scratch, _short_flops, _View, _view


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, _View) for name in ("q", "k", "v", "out", "q_source", "k_source")), ("index", ctypes.c_void_p),
        *((name, Long) for name in ("batches", "heads", "tokens", "marks", "sources", "width")), ("scale", ctypes.c_float),
        ("steps", Long), ("ridge", ctypes.c_float),
    )  # fmt: skip


@torch.library.custom_op("fna::nystrom", mutates_args=(), device_types="cpu")
def nystrom(
    q: Tensor, k: Tensor, v: Tensor, q_source: Tensor, k_source: Tensor, index: Tensor, scale: float, steps: int, ridge: float
) -> Tensor:
    """Attention of tokens ``[B, H, N, d]`` through landmarks, which are the rows ``index`` int64 ``[B, M]`` of two tensors
    ``[B, H, S, d]``: of q and k themselves, or of others. All in `fna.ops.kernels.cpu.KINDS`; what lies between is in float32.

    The inverse by ``steps`` of Newton's; where that is 0, by ``ridge``. Both: see `fna.ops.inverse.apply_inverse`. Raises
    `IndexError` for a landmark that is no row.
    """
    out = _like(q)
    q, k, v, q_source, k_source = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v, q_source, k_source))
    index = index.contiguous()
    views = map(_view, (q, k, v, out, q_source, k_source))
    problem = _Problem(*views, _address(index), *q.shape[:3], index.shape[1], *k_source.shape[2:], scale, steps, ridge)
    library, threads = _loaded(), Long(torch.get_num_threads())
    scratch = _scratch(q, library.fna_nystrom_scratch(ctypes.byref(problem), threads))
    if not library.fna_nystrom(ctypes.byref(problem), _address(scratch), threads):
        raise IndexError(f"a landmark of {index.aminmax()} is none of the {k_source.shape[2]} tokens.")
    return out


@nystrom.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, q_source: Tensor, k_source: Tensor, index: Tensor, scale: float, steps: int, ridge: float
) -> Tensor:
    return _like(q)


@register_flop_formula(torch.ops.fna.nystrom)
def _flops(
    q: Sequence[int], k: Sequence[int], v: Any, q_source: Any, k_source: Any, index: Sequence[int], scale: float, steps: int,
    *others: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """Those of the landmark block, of both short attentions and of the inverse."""
    batch, heads, _, width = q
    m = index[1]
    marks, square = (batch, heads, m, width), (batch, heads, m, m)
    inverse = _newton_flops(square, marks, steps) if steps else _ridge_flops(square, marks, 0.0)
    return 2 * batch * heads * m * m * width + _short_flops(marks, k) + inverse + _short_flops(q, marks)
