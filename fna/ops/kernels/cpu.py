"""Fused versions for CPUs, written in C++: farthest-point sampling, short attentions, inverses of landmark blocks, group sums.

Custom operators with fake versions and FLOP formulas, without gradients: tokens in float32, bfloat16 or float16; sums, landmarks
and inverses in float32. Where they do not fit, or cannot be built (`fna.ops.kernels.build`), the plain version runs: same numbers
to rounding, more time. ``FNA_CPU_KERNELS=0`` asks for that.

Why they exist: torch's fused attention and batched products take MKL's path, which makes half of what a recent AMD processor can,
and is not made for sequences as short as landmarks are.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fna.ops.kernels import build, differentiated, for_onnx

LOG = logging.getLogger(__name__)
Long = ctypes.c_long


KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as cpp/numbers.hpp counts them


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors. The first time that a library is wanted and cannot be had, one logged sentence."""
    return all(tensor.dtype == torch.float32 for tensor in tensors) and reads(*tensors)


def reads(*tensors: Tensor) -> bool:
    """`serves`, for tokens in the model's numbers: float32, bfloat16, and float16 where the compiler knows it."""
    fit = all(tensor.device.type == "cpu" and tensor.dtype in KINDS and tensor.numel() for tensor in tensors)
    if not fit or differentiated(*tensors) or not built():
        return False
    return all(tensor.dtype != torch.float16 for tensor in tensors) or _knows_half()


def attends(q: Tensor, k: Tensor, v: Tensor, *added: Tensor | None) -> bool:
    """`reads`, for `few_queries` and `few_keys`: one width, and a head of keys and values for each head of queries."""
    fit = k.shape == v.shape and k.dtype == v.dtype and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]
    return fit and not any(term is not None and differentiated(term) for term in added) and reads(q, k, v)


@torch.compiler.assume_constant_result
def built() -> bool:
    """Whether there is a library, built now where it was not, and nobody has asked for the plain version: ONNX knows no other."""
    return _WANTED and not for_onnx() and _library() is not None


@contextmanager
def without_kernels() -> Iterator[None]:
    """The plain versions on the CPU, for measuring one against the other."""
    global _WANTED
    before, _WANTED = _WANTED, False
    try:
        yield
    finally:
        _WANTED = before


def asked_for(said: str) -> bool:
    """Whether ``FNA_CPU_KERNELS=said`` asks for the kernels."""
    return said.strip().lower() not in ("0", "no", "off", "false")


_WANTED = asked_for(os.environ.get("FNA_CPU_KERNELS", "1"))


@cache
def _library() -> ctypes.CDLL | None:
    try:
        found = build.library()
    except build.NotBuilt as reason:
        LOG.warning("fna: plain version instead of the CPU kernels: %s.", reason)
        return None
    found.fna_farthest_points_scratch.restype = found.fna_lanes.restype = Long
    found.fna_newton_scratch.restype = found.fna_ridge_scratch.restype = Long
    found.fna_nystrom_scratch.restype = found.fna_absorbed_scratch.restype = found.fna_knows_half.restype = Long
    found.fna_pairs_pay.restype = Long
    found.fna_nystrom.restype = found.fna_absorbed.restype = ctypes.c_bool
    return found


@torch.compiler.assume_constant_result
def _knows_half() -> bool:
    return bool(_loaded().fna_knows_half())


def multiplies_pairs() -> bool:
    """Whether the kernels take products of bfloat16: the processor has them, plainly faster than those of float32."""
    return built() and bool(_loaded().fna_pairs_pay())


def _loaded() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError("the CPU kernels were called where they are not built: ask `serves` first.")
    return library


def _scratch(like: Tensor, numbers: int) -> Tensor:
    """Room for a kernel's own use; `scratch_bytes` remembers how much, since who counts tensors does not see it."""
    global scratch_bytes
    scratch_bytes = 4 * numbers
    return like.new_empty(numbers, dtype=torch.float32)


scratch_bytes = 0


def _like(q: Tensor) -> Tensor:
    """Room for a result in q's layout, its rows contiguous: a model's heads lie side by side and are joined without a copy."""
    out = torch.empty_like(q)
    return out if out.stride(3) == 1 else torch.empty_like(q, memory_format=torch.contiguous_format)


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


class _View(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("batch", Long), ("head", Long), ("row", Long), ("kind", Long))


def _view(tensor: Tensor | None) -> _View:
    return _View() if tensor is None else _View(tensor.data_ptr(), *tensor.stride()[:3], KINDS[tensor.dtype])


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, _View) for name in ("q", "k", "v", "out", "pairs")), ("bias", ctypes.c_void_p),
        *((name, Long) for name in ("batches", "heads", "queries", "keys", "width")), ("scale", ctypes.c_float),
    )  # fmt: skip


@torch.library.custom_op("fna::few_queries", mutates_args=(), device_types="cpu")
def few_queries(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None, pairs: Tensor | None = None) -> Tensor:
    """Softmax attention of a few queries ``[B, H, M, d]`` over many keys and values ``[B, H, N, d]``: ``[B, H, M, d]`` in float32.

    Queries in float32; keys and values in one of `KINDS`.
    ``bias`` float ``[B, N]`` is added to the logits, -inf hides a key; a query that sees none gets zeros. So is ``pairs``
    ``[B or 1, H or 1, M, N]``, best as the transpose of rows ``[N, M]``.
    """
    return _attend("few_queries", q, k, v, scale, bias, None if pairs is None else pairs.mT)


@torch.library.custom_op("fna::few_keys", mutates_args=(), device_types="cpu")
def few_keys(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None, pairs: Tensor | None = None) -> Tensor:
    """Softmax attention of many queries ``[B, H, N, d]`` over a few keys and values ``[B, H, M, d]``; else as `few_queries`.

    Queries in one of `KINDS`, and so the answers; keys and values in float32.
    """
    return _attend("few_keys", q, k, v, scale, bias, pairs)


@few_queries.register_fake
@few_keys.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None, pairs: Tensor | None = None) -> Tensor:
    return _like(q)


def _attend(name: str, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None, pairs: Tensor | None) -> Tensor:
    """``pairs`` ``[B or 1, H or 1, many, few]``: added to the logits of the long side by the short, whichever asks."""
    out = _like(q)
    q, k, v = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (q, k, v))
    bias = None if bias is None else bias.to(torch.float32).expand(q.shape[0], k.shape[2]).contiguous()
    if pairs is not None:
        pairs = pairs.to(torch.float32).expand(*q.shape[:2], -1, -1)
        pairs = pairs if pairs.stride(3) == 1 else pairs.contiguous()
    views = map(_view, (q, k, v, out, pairs))
    problem = _Problem(*views, _address(bias), *q.shape[:3], *k.shape[2:], scale)
    room, threads = (Long * 2)(), torch.get_num_threads()
    library = _loaded()
    getattr(library, f"fna_{name}_scratch")(ctypes.byref(problem), room)
    parts = [q.shape[0] * q.shape[1] * room[0], threads * room[1]]
    heads, own = _scratch(q, sum(parts)).split(parts)
    getattr(library, f"fna_{name}")(ctypes.byref(problem), _address(heads), _address(own), Long(threads))
    return out


@torch.library.custom_op("fna::newton", mutates_args=(), device_types="cpu")
def newton(a: Tensor, rhs: Tensor, steps: int) -> Tensor:
    """``steps`` steps of the truncated inverse of ``a`` ``[B, H, M, M]`` on ``rhs`` ``[B, H, M, d]``; see `apply_inverse`."""
    return _inverted("newton", a, rhs, Long(steps))


@torch.library.custom_op("fna::ridge", mutates_args=(), device_types="cpu")
def ridge(a: Tensor, rhs: Tensor, share: float) -> Tensor:
    """The ridge solve of ``a`` ``[B, H, M, M]`` for ``rhs`` ``[B, H, M, d]``; see `apply_inverse`."""
    return _inverted("ridge", a, rhs, ctypes.c_float(share))


def _inverted(name: str, a: Tensor, rhs: Tensor, knob: ctypes.c_long | ctypes.c_float) -> Tensor:
    a, rhs, out = a.contiguous(), rhs.contiguous(), torch.empty_like(rhs, memory_format=torch.contiguous_format)
    library, threads = _loaded(), torch.get_num_threads()
    m, width = map(Long, rhs.shape[-2:])
    matrices = Long(rhs.shape[0] * rhs.shape[1])
    scratch = _scratch(rhs, min(threads, matrices.value) * getattr(library, f"fna_{name}_scratch")(m, width))
    solve = getattr(library, f"fna_{name}")
    solve(_address(a), _address(rhs), matrices, m, width, knob, _address(out), _address(scratch), Long(threads))
    return out


@newton.register_fake
@ridge.register_fake
def _(a: Tensor, rhs: Tensor, knob: float) -> Tensor:
    return torch.empty_like(rhs, memory_format=torch.contiguous_format)


@torch.library.custom_op("fna::group_sums", mutates_args=(), device_types="cpu")
def group_sums(x: Tensor, assignment: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """Weighted sums of ``x`` ``[B, H, N, d]`` over the groups of ``assignment`` int64 ``[B, N]``: float32 ``[B, H, count, d]``."""
    x = x if x.stride(3) == 1 else x.contiguous()
    assignment = assignment.contiguous()
    weights = None if weights is None else weights.to(torch.float32).contiguous()
    batch, heads, tokens, width = x.shape
    out = x.new_empty(batch, heads, count, width, dtype=torch.float32)
    sizes = map(Long, (batch, heads, tokens, width, count))
    view, threads = _view(x), Long(torch.get_num_threads())
    _loaded().fna_group_sums(ctypes.byref(view), _address(assignment), _address(weights), *sizes, _address(out), threads)
    return out


@group_sums.register_fake
def _(x: Tensor, assignment: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], count, x.shape[3], dtype=torch.float32)


@torch.library.custom_op("fna::head_mean", mutates_args=(), device_types="cpu")
def head_mean(x: Tensor) -> Tensor:
    """Mean over heads of ``x`` ``[B, H, N, d]``: float32 ``[B, N, d]``, in one read."""
    x = x if x.stride(3) == 1 else x.contiguous()
    batch, heads, tokens, width = x.shape
    out = x.new_empty(batch, tokens, width, dtype=torch.float32)
    view, sizes = _view(x), map(Long, (batch, heads, tokens, width))
    _loaded().fna_head_mean(ctypes.byref(view), *sizes, _address(out), Long(torch.get_num_threads()))
    return out


@head_mean.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2], x.shape[3], dtype=torch.float32)


@torch.library.custom_op("fna::nearest", mutates_args=(), device_types="cpu")
def nearest(x: Tensor, centres: Tensor, size: Tensor) -> Tensor:
    """The centre ``j`` of ``[B, M, D]`` whose ``size_j - 2 x . centre_j`` is least, for ``x`` ``[B, N, D]``: int64 ``[B, N]``.

    ``size`` ``[B, M]``, infinite for centres that are closed; the first among equals, -1 where all are closed.
    """
    batch, tokens, width = x.shape
    library = _loaded()
    room = library.fna_lanes(Long(size.shape[1])) - size.shape[1]
    turned = F.pad(centres.mT, (0, room)).contiguous()
    size = F.pad(size, (0, room), value=float("inf")).contiguous()
    x = x.contiguous()
    group = torch.empty(batch, tokens, dtype=torch.int64)
    library.fna_nearest(
        _address(x), _address(turned), _address(size), *map(Long, (batch, tokens, width, size.shape[1])), _address(group),
        Long(torch.get_num_threads()),
    )  # fmt: skip
    return group


@nearest.register_fake
def _(x: Tensor, centres: Tensor, size: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=torch.int64)


@torch.library.custom_op("fna::farthest_points_cpu", mutates_args=(), device_types="cpu")
def farthest_points(x: Tensor, count: int, kept: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
    """`fna.ops.farthest.farthest_points` of finite float32 ``x`` ``[B, N, D]``: int64 ``[B, count]``. A thread a row."""
    x = x.contiguous()
    rows, tokens, width = x.shape
    kept, allowed = (None if mask is None else mask.expand(rows, tokens).contiguous() for mask in (kept, allowed))
    library, threads = _loaded(), torch.get_num_threads()
    chosen = torch.empty(rows, count, dtype=torch.int64)
    scratch = _scratch(x, min(threads, rows) * library.fna_farthest_points_scratch(Long(tokens), Long(width)))
    library.fna_farthest_points(
        _address(x), _address(kept), _address(allowed), *map(Long, (rows, tokens, width, count)), _address(chosen),
        _address(scratch), Long(threads),
    )  # fmt: skip
    return chosen


@farthest_points.register_fake
def _(x: Tensor, count: int, kept: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
    return x.new_empty((x.shape[0], count), dtype=torch.int64)


@register_flop_formula([torch.ops.fna.few_queries, torch.ops.fna.few_keys])
def _short_flops(q: Sequence[int], k: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Two products, as for any attention."""
    batch, heads, queries, width = q
    return 4 * batch * heads * queries * k[2] * width


@register_flop_formula(torch.ops.fna.newton)
def _newton_flops(a: Sequence[int], rhs: Sequence[int], steps: int, *args: Any, **kwargs: Any) -> int:
    """Four products a step; those of the last meet the right-hand side, but for the first of them."""
    batch, heads, m, width = rhs
    return batch * heads * 2 * m * m * ((4 * steps - 3) * m + 4 * width)


@register_flop_formula(torch.ops.fna.ridge)
def _ridge_flops(a: Sequence[int], rhs: Sequence[int], share: float, *args: Any, **kwargs: Any) -> int:
    """The products A'A and A' rhs, the factor, and two substitutions."""
    batch, heads, m, width = rhs
    return batch * heads * (2 * m**3 + m**3 // 3 + 4 * m * m * width)


@register_flop_formula([torch.ops.fna.group_sums, torch.ops.fna.head_mean])
def _group_sums_flops(x: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """An addition a number."""
    batch, heads, tokens, width = x
    return batch * heads * tokens * width


@register_flop_formula(torch.ops.fna.nearest)
def _nearest_flops(x: Sequence[int], centres: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """One product."""
    batch, tokens, width = x
    return 2 * batch * tokens * width * centres[1]


@register_flop_formula(torch.ops.fna.farthest_points_cpu)
def _farthest_points_flops(x: Sequence[int], count: int, *args: Any, **kwargs: Any) -> int:
    """Difference, square and sum of every token and feature, for every pick."""
    batch, tokens, width = x
    return 3 * batch * count * tokens * width
