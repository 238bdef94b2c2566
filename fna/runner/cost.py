"""What the variants cost, measured in turns on one batch: time, FLOPs, memory, and where the time goes.

Machines are noisy, so no figure here stands alone: the variants alternate, a speedup is the median of per-round ratios with a
bootstrap interval, and the baseline is the faster of the untouched model (``full``) and exact attention through our seam
(``exact``).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fna.ops.farthest import without_quickfps
from fna.ops.kernels.cpu import without_kernels
from fna.runner.memory import peak_bytes

Forward = Callable[[Tensor], Tensor]
Variants = Mapping[str, Callable[[], AbstractContextManager[Any]]]
WARM_UP = 2


class StageClock:
    """Adds up the seconds of named spans; the clock that a site carries in a timed run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - start


Clocked = Callable[[StageClock], AbstractContextManager[Any]]


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(forward: Forward, variants: Variants, images: Tensor, rounds: int) -> dict[str, np.ndarray]:
    """Seconds ``[rounds]`` of ``forward(images)`` for each variant; the order rotates by one each round, after a warm-up."""
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(WARM_UP + rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            with variants[name](), torch.inference_mode():
                took = _timed(forward, images)
            if turn >= WARM_UP:
                seconds[name].append(took)
    return {name: np.array(values) for name, values in seconds.items()}


def _timed(forward: Forward, images: Tensor) -> float:
    synchronize(images.device)
    start = time.perf_counter()
    forward(images)
    synchronize(images.device)
    return time.perf_counter() - start


def median_ratio(baseline: np.ndarray, variant: np.ndarray, *, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Median of the per-round ratios baseline / variant, with a 95 % bootstrap interval of the median."""
    ratios = baseline / variant
    generator = np.random.default_rng(seed)
    medians = np.median(generator.choice(ratios, (draws, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return {"median": float(np.median(ratios)), "ci": [float(low), float(high)]}


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


def stages(forward: Forward, clocked: Clocked, images: Tensor, rounds: int) -> dict[str, float]:
    """Share of the variant's forward spent in each named stage; what no stage names is "rest of the model"."""
    shares: dict[str, list[float]] = defaultdict(list)
    for turn in range(WARM_UP + rounds):
        clock = StageClock(images.device)
        with clocked(clock), torch.inference_mode():
            total = _timed(forward, images)
        if turn < WARM_UP:
            continue
        for stage, seconds in clock.seconds.items():
            shares[stage].append(seconds / total)
        shares["rest of the model"].append(1 - sum(clock.seconds.values()) / total)
    return {stage: float(np.median(values)) for stage, values in shares.items()}


def measure(
    forward: Forward,
    variants: Variants,
    clocked: Clocked,
    images: Tensor,
    *,
    rounds: int,
) -> dict[str, Any]:
    """The ``cost`` of ``result.json`` for the variants "full", "exact" and "variant"."""
    seconds = in_turns(forward, variants, images, rounds)
    baseline = min(("full", "exact"), key=lambda name: float(np.median(seconds[name])))
    counted, peaks = {}, {}
    for name in ("full", "variant"):
        with variants[name]():
            counted[name] = flops(forward, images)
            with torch.inference_mode():
                peaks[name] = peak_bytes(lambda: forward(images), images.device)
    shares = stages(forward, clocked, images, max(3, rounds // 3))
    batch = len(images)
    return {
        "speedup": median_ratio(seconds[baseline], seconds["variant"]),
        "baseline": baseline,
        "sampling_share": shares.get("sampling", 0.0),
        "images_per_second": {name: batch / float(np.median(values)) for name, values in seconds.items()},
        "flops": {name: value / batch for name, value in counted.items()},
        "peak_memory_bytes": peaks,
        "stages": shares,
        "batch_size": batch,
        "rounds": rounds,
    }
