# mypy: disable-error-code="no-untyped-def, attr-defined"
# (what Triton compiles takes pointers and tiles, which have no Python types)
"""FNA in three launches: landmarks over tokens, landmark block with its inverse, tokens over landmarks.

    1. part of B v:  softmax(s q_p k^T) v over one share of the keys, with its row maximum and row sum (split keys)
    2. V~ = Z (B v): the shares merged by log-sum-exp; A = softmax(s q_p k_p^T); six steps from Z = A^T / max column sum
    3. out = softmax(s q k_p^T) V~

Rows of landmarks are fetched through ``index`` inside each kernel, so nothing is gathered beforehand. Heads of one batch row share
its landmarks. Formulas: published FNA, as in `fna.ops.nystrom`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fna.ops.kernels import STEPS

KEYS = 64  # keys (or queries) in a tile
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    """a @ b accumulated in float32. Triton's interpreter reads bfloat16 operands as integers, so it is handed float32."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _rows(base, index, stride, axis, width, rows):
    """A tile of rows ``index`` of a head ``[tokens, width]``; zeros where there is no row or no column."""
    return tl.load(base + index[:, None] * stride + axis[None, :], mask=rows[:, None] & (axis < width)[None, :], other=0.0)


@triton.jit
def _head(base, batch, head, stride_batch, stride_head):
    return base + batch.to(tl.int64) * stride_batch + head.to(tl.int64) * stride_head


@triton.jit
def _landmarks_over_tokens(
    q, k, v, index, bias, part, top, total, scale, heads, tokens, marks, width, share,
    qb, qh, qn, kb, kh, kn, vb, vh, vn,
    HAS_BIAS: tl.constexpr, MARKS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    split, pair = tl.program_id(0), tl.program_id(1)
    batch, head = pair // heads, pair % heads
    k, v = _head(k, batch, head, kb, kh), _head(v, batch, head, vb, vh)
    axis, mark = tl.arange(0, WIDTH), tl.arange(0, MARKS)
    chosen = tl.load(index + batch * marks + mark, mask=mark < marks, other=0)
    query = _rows(_head(q, batch, head, qb, qh), chosen, qn, axis, width, mark < marks)
    high = tl.full([MARKS], float("-inf"), tl.float32)
    mass = tl.zeros([MARKS], tl.float32)
    sums = tl.zeros([MARKS, WIDTH], tl.float32)
    stop = tl.minimum((split + 1) * share, tokens)
    for start in range(split * share, stop, KEYS):
        token = start + tl.arange(0, KEYS)
        there = token < stop
        key = _rows(k, token.to(tl.int64), kn, axis, width, there)
        logits = _dot(query, tl.trans(key), PRECISION) * scale
        if HAS_BIAS:
            logits += tl.load(bias + batch * tokens + token, mask=there, other=0.0)[None, :]
        logits = tl.where(there[None, :], logits, float("-inf"))
        higher = tl.maximum(high, tl.max(logits, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # every key so far is hidden
        weight = tl.exp(logits - shift[:, None])
        fade = tl.exp(high - shift)
        value = _rows(v, token.to(tl.int64), vn, axis, width, there)
        sums = sums * fade[:, None] + _dot(weight.to(value.dtype), value, PRECISION)
        mass = mass * fade + tl.sum(weight, 1)
        high = higher
    row = (pair * tl.num_programs(0) + split) * MARKS + mark
    tl.store(top + row, high)
    tl.store(total + row, mass)
    tl.store(part + row[:, None].to(tl.int64) * WIDTH + axis[None, :], sums)


@triton.jit
def _merged(part, top, total, pair, splits, mark, axis, MARKS: tl.constexpr, WIDTH: tl.constexpr):
    """The shares of one head as one softmax over all keys ``[MARKS, WIDTH]``."""
    high = tl.full([MARKS], float("-inf"), tl.float32)
    mass = tl.zeros([MARKS], tl.float32)
    sums = tl.zeros([MARKS, WIDTH], tl.float32)
    for split in range(splits):
        row = (pair * splits + split) * MARKS + mark
        peak = tl.load(top + row)
        higher = tl.maximum(high, peak)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        old, new = tl.exp(high - shift), tl.exp(peak - shift)
        sums = sums * old[:, None] + tl.load(part + row[:, None].to(tl.int64) * WIDTH + axis[None, :]) * new[:, None]
        mass = mass * old + tl.load(total + row) * new
        high = higher
    return sums / tl.where(mass == 0, 1.0, mass)[:, None]


@triton.jit
def _product(a, b, LOW: tl.constexpr):
    """a @ b accumulated in float32; ``LOW``: from bfloat16 operands, else from three tf32 products (float32 to rounding)."""
    if LOW:
        return _dot(a.to(tl.bfloat16), b.to(tl.bfloat16), "tf32x3")
    return _dot(a, b, "tf32x3")


@triton.jit
def _pseudo_values(
    q, k, index, part, top, total, out, scale, heads, marks, width, splits,
    qb, qh, qn, kb, kh, kn,
    STEPS: tl.constexpr, MARKS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr, LOW: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    batch, head = pair // heads, pair % heads
    axis, mark = tl.arange(0, WIDTH), tl.arange(0, MARKS)
    there = mark < marks
    chosen = tl.load(index + batch * marks + mark, mask=there, other=0)
    query = _rows(_head(q, batch, head, qb, qh), chosen, qn, axis, width, there)
    key = _rows(_head(k, batch, head, kb, kh), chosen, kn, axis, width, there)
    logits = _dot(query, tl.trans(key), PRECISION) * scale
    logits = tl.where(there[None, :], logits, float("-inf"))
    weight = tl.exp(logits - tl.max(logits, 1)[:, None])
    # Rows beyond the last landmark are zero and stay zero in every step.
    block = tl.where(there[:, None], weight / tl.sum(weight, 1)[:, None], 0.0)
    inverse = tl.trans(block) / tl.max(tl.sum(block, 0), 0)
    same = mark[:, None] == mark[None, :]
    for _ in range(STEPS):
        y = _product(block, inverse, LOW)
        inner = tl.where(same, 7.0, 0.0) - y
        inner = tl.where(same, 15.0, 0.0) - _product(y, inner, LOW)
        inner = tl.where(same, 13.0, 0.0) - _product(y, inner, LOW)
        inverse = _product(inverse, inner, LOW) * 0.25
    values = _product(inverse, _merged(part, top, total, pair, splits, mark, axis, MARKS, WIDTH), LOW)
    place = out + (pair * marks + mark)[:, None].to(tl.int64) * width + axis[None, :]
    tl.store(place, values.to(out.dtype.element_ty), mask=there[:, None] & (axis < width)[None, :])


@triton.jit
def _tokens_over_landmarks(
    q, k, values, index, out, scale, heads, tokens, marks, width,
    qb, qh, qn, kb, kh, kn, ob, oh, on,
    MARKS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1)
    batch, head = pair // heads, pair % heads
    axis, mark = tl.arange(0, WIDTH), tl.arange(0, MARKS)
    there = mark < marks
    chosen = tl.load(index + batch * marks + mark, mask=there, other=0)
    key = _rows(_head(k, batch, head, kb, kh), chosen, kn, axis, width, there)
    value = _rows(values + pair.to(tl.int64) * marks * width, mark, width, axis, width, there)
    token = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    query = _rows(_head(q, batch, head, qb, qh), token.to(tl.int64), qn, axis, width, token < tokens)
    logits = _dot(query, tl.trans(key), PRECISION) * scale
    logits = tl.where(there[None, :], logits, float("-inf"))
    weight = tl.exp(logits - tl.max(logits, 1)[:, None])
    mixed = _dot(weight.to(value.dtype), value, PRECISION) / tl.sum(weight, 1)[:, None]
    place = _head(out, batch, head, ob, oh) + token[:, None].to(tl.int64) * on + axis[None, :]
    tl.store(place, mixed.to(out.dtype.element_ty), mask=(token < tokens)[:, None] & (axis < width)[None, :])


def key_splits(pairs: int, tokens: int, processors: int) -> int:
    """In how many shares the keys of a head are read, so that ``pairs`` (batch rows times heads) fill the chip twice over."""
    return max(1, min(triton.cdiv(2 * processors, pairs), triton.cdiv(tokens, 4 * KEYS)))


def launch(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, bias: Tensor | None = None, *, splits: int = 1) -> Tensor:
    """The three launches; the arguments of `fna.ops.kernels.gpu.fast_nystrom`, and in how many shares the keys are read."""
    q, k, v = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (q, k, v))
    index = index.contiguous()
    batch, heads, tokens, width = q.shape
    marks, pairs = index.shape[1], batch * heads
    sizes = {
        "MARKS": max(16, triton.next_power_of_2(marks)),
        "WIDTH": max(16, triton.next_power_of_2(width)),
        "PRECISION": "tf32x3",
    }
    share = triton.cdiv(triton.cdiv(tokens, splits), KEYS) * KEYS
    splits = triton.cdiv(tokens, share)
    part = q.new_empty((pairs, splits, sizes["MARKS"], sizes["WIDTH"]), dtype=torch.float32)
    top, total = (part.new_empty(part.shape[:3]) for _ in range(2))
    strides = [tensor.stride()[:3] for tensor in (q, k, v)]
    _landmarks_over_tokens[(splits, pairs)](
        q, k, v, index, q if bias is None else bias.float().contiguous(), part, top, total,
        scale, heads, tokens, marks, width, share, *strides[0], *strides[1], *strides[2],
        HAS_BIAS=bias is not None, KEYS=KEYS, num_warps=4, num_stages=2, **sizes,
    )  # fmt: skip
    values = q.new_empty((batch, heads, marks, width))
    large = sizes["MARKS"] > 64
    _pseudo_values[(pairs,)](
        q, k, index, part, top, total, values, scale, heads, marks, width, splits, *strides[0], *strides[1],
        STEPS=STEPS, LOW=large, num_warps=8 if large else 4, num_stages=1, **sizes,
    )  # fmt: skip
    out = torch.empty_like(q)
    _tokens_over_landmarks[(triton.cdiv(tokens, KEYS), pairs)](
        q, k, values, index, out, scale, heads, tokens, marks, width, *strides[0], *strides[1], *out.stride()[:3],
        KEYS=KEYS, num_warps=4, num_stages=1, **sizes,
    )  # fmt: skip
    return out
