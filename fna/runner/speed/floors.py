"""What the machine can do, measured in the same run, and the least time that a piece of work needs on it.

A floor is the larger of FLOPs over the rate of a large matrix product and bytes (each input read once, each output written once)
over the bandwidth of a large copy. Softmax, norms and comparisons count as bytes only; a multiply-add is 2 FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from fna.runner.speed.turns import timed

STEPS = 6


@dataclass(frozen=True)
class Shape:
    """One operation's size: batch rows, heads, tokens, head width, landmarks, bytes of a number."""

    batch: int
    heads: int
    tokens: int
    width: int
    landmarks: int
    itemsize: int = 4

    @property
    def pairs(self) -> int:
        """Matrices of a batched product."""
        return self.batch * self.heads

    @property
    def words(self) -> int:
        """Numbers in q."""
        return self.pairs * self.tokens * self.width


@dataclass(frozen=True)
class Machine:
    """Measured ceilings: FLOP/s of a large matrix product (``gemm``), bytes/s of a large copy, read and written (``copy``)."""

    gemm: float
    copy: float

    def floor(self, flops: float, moved: float) -> float:
        """Least seconds for so many FLOPs and bytes."""
        return max(flops / self.gemm, moved / self.copy)


def measure_machine(device: torch.device, dtype: torch.dtype, rounds: int = 7) -> Machine:
    """The two ceilings, best of ``rounds``: a product of 2048 (GPU: 8192) squared and a copy of 256 MiB (GPU: 2 GiB).

    The product also as a convolution of one pixel: on a CPU that is another library's (oneDNN for MKL), twice as fast on some.
    """
    big = device.type == "cuda"
    side, count = (8192, 1 << 29) if big else (2048, 1 << 26)
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    image = a.view(1, side, side, 1).contiguous(memory_format=torch.channels_last)
    calls = (lambda: a @ b, lambda: F.conv2d(image, b.view(side, side, 1, 1)), lambda: target.copy_(source))
    with torch.inference_mode():
        product, convolution, copy = (min(timed(call, device) for _ in range(rounds + 2)) for call in calls)
    return Machine(gemm=2 * side**3 / min(product, convolution), copy=2 * source.nbytes / copy)


def attention_work(shape: Shape) -> tuple[float, float]:
    """(FLOPs, bytes) of full attention."""
    return 4.0 * shape.words * shape.tokens, 4.0 * shape.words * shape.itemsize


def stage_work(shape: Shape) -> dict[str, tuple[float, float]]:
    """(FLOPs, bytes) of every stage of FNA, by the names that the clock uses."""
    marks, item = shape.landmarks, shape.itemsize
    rows = shape.pairs * marks * shape.width
    block = shape.pairs * marks * marks
    features = shape.batch * shape.tokens * shape.width * 4
    return {
        "sampling": (0.0, shape.words * item + features),
        "gather": (0.0, 4.0 * rows * item),
        "landmark block": (2.0 * block * shape.width, 2.0 * rows * item + 4.0 * block),
        "landmarks over tokens": (4.0 * shape.words * marks, 2.0 * shape.words * item + 2.0 * rows * item),
        "inverse": (STEPS * 8.0 * block * marks + 2.0 * block * shape.width, 4.0 * block + 2.0 * rows * item),
        "tokens over landmarks": (4.0 * shape.words * marks, 2.0 * shape.words * item + 2.0 * rows * item),
    }


def op_floor(machine: Machine, shape: Shape, *, sampling: bool = True) -> float:
    """Least seconds of FNA: the sum over its stages, since they cannot overlap much."""
    work = stage_work(shape)
    return float(np.sum([machine.floor(*work[name]) for name in work if sampling or name != "sampling"]))


def peak_allowance(shape: Shape) -> int:
    """Bytes that FNA may hold beyond fused attention: landmark rows, block, and a few of their kind (see issue 6, point 4)."""
    return 8 * shape.pairs * shape.landmarks * (shape.landmarks + shape.width) * max(4, shape.itemsize)
