"""Absorbed Nyström attention (`fna.ops.absorbed`) on CPUs: all but its three products over the tokens, in C++.

Small products whose operands are warm, where torch calls one after the other would cost more than they compute.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fna.ops.kernels import cpu
from fna.ops.kernels.cpu import Long, _address, _loaded, _newton_flops, _ridge_flops, _scratch, _View, _view

WHOLE = 16  # landmarks and width of the model are multiples of it: numbers of the widest vectors


class _Problem(ctypes.Structure):
    _fields_ = (
        ("x", _View),
        *((name, ctypes.c_void_p) for name in (
            "inner", "inner_bias", "outer", "index", "maps", "shifts", "blocks", "scores", "mass", "seen", "values"
        )),
        *((name, Long) for name in ("batches", "heads", "tokens", "marks", "depth", "width")),
        ("scale", ctypes.c_float), ("steps", Long), ("ridge", ctypes.c_float),
    )  # fmt: skip


def serves(x: Tensor, marks: int, *weights: Tensor | None) -> bool:
    """Whether the kernels take tokens ``x`` ``[B, N, D]`` with so many landmarks, and these weights."""
    given = [x, *(weight for weight in weights if weight is not None)]
    return marks % WHOLE == 0 and x.shape[2] % WHOLE == 0 and all(map(torch.Tensor.is_contiguous, given)) and cpu.serves(*given)


@torch.library.custom_op("fna::absorbed_maps", mutates_args=(), device_types="cpu")
def maps(x: Tensor, index: Tensor, inner: Tensor, bias: Tensor | None, heads: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of landmark tokens ``index`` int64 ``[B, M]`` of ``x`` ``[B, N, D]``: maps ``[2, B, H M, D]`` to scores of tokens as keys and
    as queries, shifts ``[B, H, M]`` of the latter, and landmark blocks ``[B, H, M, M]``; ``inner`` ``[3 H d, D]``.

    Raises `IndexError` for a landmark that is no token.
    """
    batch, tokens, depth = x.shape
    marks, index = index.shape[1], index.contiguous()
    made = _made(x, index, heads)
    problem = _Problem(
        x=_view(x[:, None]), inner=_address(inner), inner_bias=_address(bias), index=_address(index), maps=_address(made[0]),
        shifts=_address(made[1]), blocks=_address(made[2]), batches=batch, heads=heads, tokens=tokens, marks=marks, depth=depth,
        width=inner.shape[0] // (3 * heads), scale=scale,
    )  # fmt: skip
    scratch, threads = _room(x, problem)
    if not _loaded().fna_absorbed_maps(ctypes.byref(problem), _address(scratch), threads):
        raise IndexError(f"a landmark of {index.aminmax()} is none of the {tokens} tokens.")
    return made


@maps.register_fake
def _(x: Tensor, index: Tensor, inner: Tensor, bias: Tensor | None, heads: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return _made(x, index, heads)


def _made(x: Tensor, index: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    (batch, _, depth), marks = x.shape, index.shape[1]
    return x.new_empty(2, batch, heads * marks, depth), x.new_empty(batch, heads, marks), x.new_empty(batch, heads, marks, marks)


@torch.library.custom_op("fna::absorbed_keys", mutates_args=("scores",), device_types="cpu")
def weigh_keys(scores: Tensor, heads: int) -> Tensor:
    """Scores of tokens as keys ``[B, N, H M]`` to e^(score - highest of all tokens), in place; their sums ``[B, H, M]``."""
    mass = _mass(scores, heads)
    problem = _scored(scores, heads, mass=_address(mass))
    scratch = _scratch(scores, _loaded().fna_absorbed_sums(ctypes.byref(problem)))
    _loaded().fna_absorbed_keys(ctypes.byref(problem), _address(scratch), Long(torch.get_num_threads()))
    return mass


@weigh_keys.register_fake
def _(scores: Tensor, heads: int) -> Tensor:
    return _mass(scores, heads)


def _mass(scores: Tensor, heads: int) -> Tensor:
    return scores.new_empty(len(scores), heads, scores.shape[2] // heads)


@torch.library.custom_op("fna::absorbed_queries", mutates_args=("scores",), device_types="cpu")
def weigh_queries(scores: Tensor, shifts: Tensor) -> None:
    """Scores of tokens as queries ``[B, N, H M]`` plus ``shifts`` ``[B, H, M]`` to weights, a softmax for each head, in place."""
    problem = _scored(scores, shifts.shape[1], shifts=_address(shifts))
    _loaded().fna_absorbed_queries(ctypes.byref(problem), Long(torch.get_num_threads()))


@weigh_queries.register_fake
def _(scores: Tensor, shifts: Tensor) -> None:
    return None


def _scored(scores: Tensor, heads: int, **fields: Any) -> _Problem:
    batch, tokens, row = scores.shape
    return _Problem(scores=_address(scores), batches=batch, heads=heads, tokens=tokens, marks=row // heads, **fields)


@torch.library.custom_op("fna::absorbed_values", mutates_args=(), device_types="cpu")
def values(
    seen: Tensor, mass: Tensor, blocks: Tensor, inner: Tensor, bias: Tensor | None, outer: Tensor, steps: int, ridge: float
) -> Tensor:
    """What landmarks stand for ``[B, D, H M]``, of what they saw, ``[B, D, H M]``, undivided by its mass.

    The inverse by ``steps`` of Newton's; where that is 0, by ``ridge`` (`fna.ops.inverse.apply_inverse`).
    """
    out, seen = torch.empty_like(seen, memory_format=torch.contiguous_format), seen.contiguous()
    batch, heads, marks = mass.shape
    problem = _Problem(
        inner=_address(inner), inner_bias=_address(bias), outer=_address(outer), blocks=_address(blocks), mass=_address(mass),
        seen=_address(seen), values=_address(out), batches=batch, heads=heads, marks=marks, depth=seen.shape[1],
        width=outer.shape[1] // heads, steps=steps, ridge=ridge,
    )  # fmt: skip
    scratch, threads = _room(seen, problem)
    _loaded().fna_absorbed_values(ctypes.byref(problem), _address(scratch), threads)
    return out


@values.register_fake
def _(
    seen: Tensor, mass: Tensor, blocks: Tensor, inner: Tensor, bias: Tensor | None, outer: Tensor, steps: int, ridge: float
) -> Tensor:
    return torch.empty_like(seen, memory_format=torch.contiguous_format)


def _room(like: Tensor, problem: _Problem) -> tuple[Tensor, ctypes.c_long]:
    threads = Long(torch.get_num_threads())
    return _scratch(like, _loaded().fna_absorbed_scratch(ctypes.byref(problem), threads)), threads


@register_flop_formula(torch.ops.fna.absorbed_maps)
def _maps_flops(
    x: Sequence[int], index: Sequence[int], inner: Sequence[int], bias: Any, heads: int, *args: Any, **kwargs: Any
) -> int:
    """Landmarks through two layers and back through two, and the landmark blocks."""
    (batch, _, depth), marks, width = x, index[1], inner[0] // 3
    return batch * marks * width * (8 * depth + 2 * marks)


@register_flop_formula([torch.ops.fna.absorbed_keys, torch.ops.fna.absorbed_queries])
def _weights_flops(*args: Any, **kwargs: Any) -> int:
    """No product."""
    return 0


@register_flop_formula(torch.ops.fna.absorbed_values)
def _values_flops(
    seen: Sequence[int], mass: Sequence[int], blocks: Sequence[int], inner: Any, bias: Any, outer: Sequence[int], steps: int,
    *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """Through v's layer and the outer one, and the inverse."""
    (batch, heads, marks), (depth, width) = mass, outer
    rhs = (batch, heads, marks, width // heads)
    inverse = _newton_flops(blocks, rhs, steps) if steps else _ridge_flops(blocks, rhs, 0.0)
    return 4 * batch * marks * width * depth + inverse
