"""Absorbed Nyström attention (`fna.ops.absorbed`) for CPUs: one operator, one parallel region, scores that never lie in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import Parameter
from torch.utils.flop_counter import register_flop_formula

from fna.ops.kernels import cpu
from fna.ops.kernels.cpu import Long, _address, _loaded, _newton_flops, _ridge_flops, _scratch, _View, _view

PLAIN = (Tensor, Parameter)
WHOLE = 16  # landmarks and width of the model are multiples of it: numbers of the widest vectors


class _Problem(ctypes.Structure):
    _fields_ = (
        ("x", _View), ("out", _View),
        *((name, ctypes.c_void_p) for name in ("inner", "inner_bias", "outer", "outer_bias", "index")),
        *((name, Long) for name in ("batches", "heads", "tokens", "marks", "depth", "width")),
        ("scale", ctypes.c_float), ("steps", Long), ("ridge", ctypes.c_float),
    )  # fmt: skip


def serves(x: Tensor, marks: int, *weights: Tensor | None) -> bool:
    """Whether the kernel takes tokens ``x`` ``[B, N, D]`` with so many landmarks, and these weights.

    Tensors of another class (quantised weights) and those that `torch.func` has wrapped hold their numbers elsewhere.
    """
    given = [x, *(weight for weight in weights if weight is not None)]
    plain = all(type(one) in PLAIN and not is_functorch_wrapped_tensor(one) and _dense(one) for one in given)
    return plain and marks % WHOLE == 0 and x.shape[2] % WHOLE == 0 and cpu.serves(*given)


def _dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.is_contiguous()


@torch.library.custom_op("fna::absorbed", mutates_args=(), device_types="cpu")
def absorbed(
    x: Tensor, index: Tensor, inner: Tensor, inner_bias: Tensor | None, outer: Tensor, outer_bias: Tensor | None, heads: int,
    scale: float, steps: int, ridge: float,
) -> Tensor:  # fmt: skip
    """Tokens ``x`` ``[B, N, D]`` through landmarks ``index`` int64 ``[B, M]`` of themselves: ``[B, N, D]``.

    ``inner`` ``[3 H d, D]`` and ``outer`` ``[D, H d]`` are the layers round the attention.
    The inverse by ``steps`` of Newton's; where that is 0, by ``ridge``. Raises `IndexError` for a landmark that is no token.
    """
    out, index = torch.empty_like(x), index.contiguous()
    batch, tokens, depth = x.shape
    problem = _Problem(
        _view(x[:, None]), _view(out[:, None]), _address(inner), _address(inner_bias), _address(outer), _address(outer_bias),
        _address(index), batch, heads, tokens, index.shape[1], depth, outer.shape[1] // heads, scale, steps, ridge,
    )  # fmt: skip
    library, threads = _loaded(), Long(torch.get_num_threads())
    scratch = _scratch(x, library.fna_absorbed_scratch(ctypes.byref(problem), threads))
    if not library.fna_absorbed(ctypes.byref(problem), _address(scratch), threads):
        raise IndexError(f"a landmark of {index.aminmax()} is none of the {tokens} tokens.")
    return out


@absorbed.register_fake
def _(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x)


@register_flop_formula(torch.ops.fna.absorbed)
def _flops(
    x: Sequence[int], index: Sequence[int], inner: Any, inner_bias: Any, outer: Sequence[int], outer_bias: Any, heads: int,
    scale: float, steps: int, *others: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """Four products of the tokens, landmarks through two layers and back and through two more, their blocks and inverses."""
    (batch, tokens, depth), (_, width), marks = x, outer, index[1]
    rhs, square = (batch, heads, marks, width // heads), (batch, heads, marks, marks)
    inverse = _newton_flops(square, rhs, steps) if steps else _ridge_flops(square, rhs, 0.0)
    return batch * marks * (depth * (8 * tokens * heads + 12 * width) + 2 * marks * width) + inverse
