"""Relative positions of a key's row and of its column, kept apart where a module adds them up to N x N (MViTv2, SAM, ViTDet).

Under a seam's mode the sum of ``[B, y, x, rows, 1]`` and ``[B, y, x, 1, columns]`` is an `Outer`: it has a shape, and its numbers
are made only for who does more with it than give it another shape or hand it over as a mask.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fna.errors import UserError
from fna.ops.bias import Decomposed

SUMS = ("add", "__add__", "__radd__")
_OF: tuple[Any, ...] = (Tensor.shape, Tensor.dtype, Tensor.device, Tensor.ndim, Tensor.requires_grad, Tensor.is_cuda, Tensor.layout)
LOOKS = {*(part.__get__ for part in _OF), Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, torch.is_floating_point}
_PLAIN = (Tensor, torch.nn.Parameter)


class Outer(Tensor):
    """``down[..., None] + across[..., None, :]`` in whatever shape, row by row; ``down`` ``[*lead, rows]``, ``across``
    ``[*lead, columns]``."""

    down: Tensor
    across: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        if func in LOOKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        first = args[0] if args else None
        if isinstance(first, Outer) and name in ("view", "reshape", "reshape_as", "view_as", "contiguous") and not kwargs:
            return outer(first.down, first.across, _wanted(first.shape, name, args[1:]))
        if not all(kind is Outer or kind in _PLAIN for kind in types):
            return NotImplemented  # a `Product` knows what to do
        if isinstance(first, Outer) and name.endswith("_") and not name.endswith("__"):
            raise UserError(f"an attention changes its relative positions in place by {name}; leave its blocks out of layers=.")
        return func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))


def outer(down: Tensor, across: Tensor, shape: torch.Size) -> Outer:
    """What the module has in hand: one number in memory, spread over the shape."""
    dtype = torch.promote_types(down.dtype, across.dtype)
    made = Tensor._make_subclass(Outer, torch.empty((), dtype=dtype, device=down.device).expand(shape))
    made.down, made.across = down, across
    return made


def added(a: Any, b: Any) -> Outer | None:
    """In place of ``a + b``; None where they are not what each cell (y, x) of a grid adds for its rows and for its columns."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.dim() != b.dim() or a.dim() < 5:
        return None
    down, across = (a, b) if a.shape[-1] == 1 else (b, a)
    lead = down.shape[:-2]
    if across.shape[:-2] != lead or (*down.shape[-2:], *across.shape[-2:]) != (lead[-2], 1, 1, lead[-1]):
        return None
    return outer(down[..., 0], across[..., 0, :], torch.Size((*lead, *lead[-2:])))


def decomposed(mask: Tensor) -> Decomposed | None:
    """A mask ``[B, H, N, N]`` as positions to be asked for a few rows and columns, where it is an `Outer`."""
    if not isinstance(mask, Outer) or mask.dim() != 4 or mask.shape[-1] != mask.down.shape[-1] * mask.across.shape[-1]:
        return None
    return Decomposed(*(part.reshape(*mask.shape[:-1], -1) for part in (mask.down, mask.across)))


def resized(shape: torch.Size, *sizes: Any) -> torch.Size:
    """``shape`` after ``view(*sizes)``: a -1 among them is what is left."""
    wanted = list(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)
    if -1 in wanted:
        wanted[wanted.index(-1)] = shape.numel() // prod(size for size in wanted if size != -1)
    return torch.Size(wanted)


def _wanted(shape: torch.Size, name: str, sizes: Any) -> torch.Size:
    if name == "contiguous":
        return shape
    return sizes[0].shape if name.endswith("_as") else resized(shape, *sizes)


def _numbers(arg: Any) -> Any:
    return (arg.down[..., None] + arg.across[..., None, :]).reshape(arg.shape) if isinstance(arg, Outer) else arg
