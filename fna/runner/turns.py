"""Forward passes timed in turns, and what is made of the seconds: speedups, shares of stages, and of what there was to save.

Machines are noisy: contenders alternate, and a figure is a median of what was taken in the same round, with a bootstrap interval.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fna.runner.clocks import StageClock, synchronize
from fna.runner.flops import Forward

Variants = Mapping[Any, Callable[[], AbstractContextManager[Any]]]
WARM_UP = 2


Clocked = Callable[[StageClock], AbstractContextManager[Any]]


def in_turns(forward: Forward, variants: Variants, images: Tensor, rounds: int) -> dict[Any, np.ndarray]:
    """Seconds ``[rounds]`` of ``forward(images)`` for each variant; the order rotates by one each round, after a warm-up."""
    names = list(variants)
    seconds: dict[Any, list[float]] = {name: [] for name in names}
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


def share_of_saving(full: np.ndarray, variant: np.ndarray, free: np.ndarray, *, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """The part of what ``free`` saves of ``full`` that ``variant`` saves too, from medians of pair ratios, with a 95 % interval.

    (1 - median(variant / full)) / (1 - median(free / full)), seconds ``[rounds]`` each; the bootstrap draws whole rounds. A median
    of each round's own share would be pulled towards 0: where the saving is as small as the noise, some rounds divide by nearly 0.
    """
    generator = np.random.default_rng(seed)
    rounds = generator.integers(len(full), size=(draws, len(full)))
    saved, attainable = 1 - variant / full, 1 - free / full
    shares = np.median(saved[rounds], axis=1) / np.median(attainable[rounds], axis=1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return {"median": float(np.median(saved) / np.median(attainable)), "ci": [float(low), float(high)]}


def stages(forward: Forward, clocked: Clocked, images: Tensor, rounds: int) -> dict[str, float]:
    """Share of the variant's forward spent in each named stage; what no stage names is "rest of the model"."""
    shares: dict[str, list[float]] = defaultdict(list)
    for turn in range(WARM_UP + rounds):
        seconds, rest = _by_stage(forward, clocked, images)
        if turn < WARM_UP:
            continue
        total = rest + sum(seconds.values())
        for stage, took in seconds.items():
            shares[stage].append(took / total)
        shares["rest of the model"].append(rest / total)
    return {stage: float(np.median(values)) for stage, values in shares.items()}


def share_inside(forward: Forward, variant: Clocked, exact: Clocked, images: Tensor, rounds: int) -> dict[str, Any]:
    """`share_of_saving` by clocks inside the model: 1 - (time in the variant's stages) / (time in exact attention), in turns.

    Each in units of the rest of its own forward, which is the same work and whose noise, at ten times the size, is thus left out.
    """
    taken = np.empty((WARM_UP + rounds, 2))
    for turn in range(WARM_UP + rounds):
        for place, clocked in enumerate((variant, exact)):
            seconds, rest = _by_stage(forward, clocked, images)
            taken[turn, place] = sum(seconds.values()) / rest
    ours, theirs = taken[WARM_UP:].T
    return share_of_saving(1 + theirs, 1 + ours, np.ones(rounds))


def _by_stage(forward: Forward, clocked: Clocked, images: Tensor) -> tuple[dict[str, float], float]:
    """Seconds of one forward in each named stage, and in the rest of it."""
    clock = StageClock(images.device)
    with clocked(clock), torch.inference_mode():
        total = _timed(forward, images)
    return clock.seconds, total - sum(clock.seconds.values())
