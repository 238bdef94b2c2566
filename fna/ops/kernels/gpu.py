"""Fused versions for GPUs, written in Triton: farthest-point sampling in one launch, FNA in three, windows and clusters in one.

All are custom operators with fake versions, so that ``torch.compile`` and CUDA graphs take them as they are. Where they do not
fit, `available` says so once and the plain version runs: same numbers, more launches. Torch's FLOP counter has a formula for each.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fna.ops.kernels import STEPS, cpu_local, differentiated, for_onnx

LOG = logging.getLogger(__name__)
HAS_TRITON = find_spec("triton") is not None
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 128
MAX_LANDMARKS = 128
MAX_FEATURES = 2048  # width of what the sampler looks at


def available(q: Tensor, landmarks: int = 1, width: int = MAX_WIDTH) -> bool:
    """Whether the kernels serve ``q`` ``[..., width]`` with so many landmarks; on a GPU where not, one logged sentence says why."""
    if not q.is_cuda or not q.numel() or for_onnx():
        return False
    reason = unfit(q, landmarks, width)
    if reason:
        _say(reason)
    return reason is None


def unfit(q: Tensor, landmarks: int = 1, width: int = MAX_WIDTH) -> str | None:
    """Why the kernels cannot serve ``q``, or None where they can."""
    if not HAS_TRITON:
        return "Triton is not installed"
    if q.dtype not in DTYPES:
        return f"dtype {q.dtype} has no kernel"
    if q.shape[-1] > width:
        return f"head width {q.shape[-1]} is above {width}"
    if landmarks > MAX_LANDMARKS:
        return f"{landmarks} landmarks are more than {MAX_LANDMARKS}"
    if q.is_cuda and torch.cuda.get_device_capability(q.device) < (8, 0):
        return "this GPU is older than compute capability 8.0"
    if differentiated(q):
        return "the kernels have no gradient"
    return None


@cache
def _say(reason: str) -> None:
    LOG.warning("fna: plain version instead of the Triton kernels: %s.", reason)


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@torch.library.custom_op("fna::farthest_points", mutates_args=())
def farthest_points(
    x: Tensor, count: int, prefix: int = 0, keep: Tensor | None = None, drop: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Farthest points of ``x`` ``[batch, tokens, width]``: indices int64 ``[batch, count]`` and, bool, which of them are valid.

    The first ``prefix`` tokens and those in ``keep`` (bool ``[batch, tokens]``) come first, in order, and seed the distances; those
    in ``drop`` are never chosen unless kept. Without kept tokens the first eligible one starts. A row with too few tokens repeats
    an index and marks it invalid.
    """
    from fna.ops.kernels import fps

    return fps.launch(x, count, prefix, keep, drop, programs=fps.programs_per_row(x.shape[0], x.shape[1], _processors(x.device)))


@farthest_points.register_fake
def _(x: Tensor, count: int, prefix: int = 0, keep: Tensor | None = None, drop: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], count), dtype=torch.int64), x.new_empty((x.shape[0], count), dtype=torch.bool)


@register_flop_formula(torch.ops.fna.farthest_points)
def _farthest_points_flops(x: Sequence[int], count: int, *args: Any, **kwargs: Any) -> int:
    """Difference, square and sum of every token and feature, for every pick."""
    batch, tokens, width = x
    return 3 * batch * count * tokens * width


@torch.library.custom_op("fna::fast_nystrom", mutates_args=())
def fast_nystrom(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """FNA of q, k, v ``[batch, heads, tokens, width]`` over landmarks ``index`` int64 ``[batch, count]``; out like ``q``.

    ``bias`` float ``[batch, tokens]`` is added to the logits of landmarks over tokens: log sizes, or -inf for a hidden key (hidden
    tokens must not be landmarks).
    """
    from fna.ops.kernels import nystrom

    splits = nystrom.key_splits(q.shape[0] * q.shape[1], k.shape[2], _processors(q.device))
    return nystrom.launch(q, k, v, index, scale, bias, splits=splits)


@fast_nystrom.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    return torch.empty_like(q)


@register_flop_formula(torch.ops.fna.fast_nystrom)
def _fast_nystrom_flops(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], index: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """Two passes of two products, the landmark block, four products a step of the inverse, and one with the summary."""
    batch, heads, tokens, width = q
    marks = index[1]
    return batch * heads * (8 * tokens * marks * width + 2 * marks**2 * width + STEPS * 8 * marks**3 + 2 * marks**2 * width)


@cpu_local.windowed.register_kernel("cuda")
def _(
    q: Tensor, k: Tensor, v: Tensor, key_sums: Tensor, value_sums: Tensor, mass: Tensor, group: Tensor, start: int, rows: int,
    columns: int, reach: int, scale: float, weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    from fna.ops.kernels import local

    return local.launch(q, k, v, key_sums, value_sums, mass, group, start, rows, columns, reach, scale, weight)
