"""Operations of a forward pass, by torch's counter with formulas for what it does not know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fna.ops.farthest import without_quickfps
from fna.ops.kernels.cpu import without_kernels

Forward = Callable[[Tensor], Tensor]


def flops(forward: Forward, images: Tensor) -> int:
    """FLOPs of one forward (a multiply-add is 2) by torch's counter; choosing landmarks is in it.

    Operators without a formula would count as nothing: solves get one, and two are kept out while counting, the fused fast path
    of nn.MultiheadAttention and the sampler of torch-quickfps. On a CPU the plain versions are counted, so that the figure does not
    depend on whether there was a compiler.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.inference_mode(),
            without_quickfps(),
            without_kernels(),
            FlopCounterMode(display=False, custom_mapping=SOLVES) as counter,
        ):
            forward(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def _lu(a: Sequence[int], b: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """An LU factorisation and its solves: 2/3 m^3 + 2 m^2 r."""
    *batch, m, _ = a
    return math.prod(batch) * (2 * m**3 // 3 + 2 * m * m * b[-1])


def _cholesky(a: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """A Cholesky factorisation: m^3 / 3."""
    *batch, m, _ = a
    return math.prod(batch) * (m**3 // 3)


def _triangles(b: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Two triangular solves for ``[..., m, r]``: 2 m^2 r."""
    *batch, m, r = b
    return math.prod(batch) * 2 * m * m * r


SOLVES = {
    torch.ops.aten._linalg_solve_ex: _lu,
    torch.ops.aten.linalg_cholesky_ex: _cholesky,
    torch.ops.aten.cholesky_solve: _triangles,
}
