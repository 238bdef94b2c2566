"""What the variants cost, measured in turns on one batch: time, FLOPs, memory, and where the time goes.

Machines are noisy, so no figure here stands alone: the variants alternate, a speedup is the median of per-round ratios with a
bootstrap interval, and the baseline is the faster of the untouched model (``full``) and exact attention through our seam
(``exact``).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fna.runner.clocks import StageClock, TokenClock, synchronize
from fna.runner.flops import Forward, flops
from fna.runner.memory import peak_bytes
from fna.runner.quiet import Load, Watch, judge
from fna.surgery.variant import FULL, Variant

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


@dataclass(frozen=True)
class Timed:
    """A contender to be timed: its variant, and the exact attention in the same blocks that it has to be faster than."""

    variant: Variant
    baseline: Variant


def measure(
    forward: Forward,
    module: nn.Module,
    contenders: Sequence[Timed],
    images: Tensor,
    *,
    rounds: int,
    progress: Callable[[int], None] = lambda n: None,
    tokens: TokenClock | None = None,
) -> list[dict[str, Any]]:
    """The ``cost`` of ``result.json`` for each contender; all of them, `FULL` and exact attention are timed in the same turns.

    Exact attention is timed once for contenders that change the same blocks. ``progress`` is told of every forward pass.
    ``tokens``: the clock that ``forward`` tells of each token that it writes.
    """
    tokens = tokens or TokenClock(images.device)
    exact = {tuple(sorted(one.baseline.ops)): one.baseline for one in contenders}
    turns: dict[Any, Variant] = {FULL.label: FULL, **exact, **{place: one.variant for place, one in enumerate(contenders)}}

    def seen(images: Tensor) -> Tensor:
        out = forward(images)
        progress(1)
        return out

    with Watch.of(images.device) as watch:
        ways = {name: partial(tokens.under, name, partial(variant.on, module)) for name, variant in turns.items()}
        seconds = in_turns(seen, ways, images, rounds)
    clocked = {name: stages(seen, partial(_clocked, one, module), images, _stage_rounds(rounds)) for name, one in exact.items()}
    full = _counted(seen, FULL, module, images)
    costs = []
    for place, one in enumerate(contenders):
        blocks = tuple(sorted(one.baseline.ops))
        names: dict[str, Any] = {"full": FULL.label, "exact": blocks, "variant": place}
        sides = {side: seconds[name] for side, name in names.items()}
        found = _cost(seen, one, module, images, full, sides, watch.load, clocked[blocks].get("attention", 0.0))
        costs.append(found | {key: _paced(each, found["baseline"]) for key, each in tokens.seconds(names, rounds).items()})
    return costs


def _paced(sides: Mapping[str, np.ndarray], baseline: str) -> dict[str, Any]:
    """Median seconds of a token on each side, and how many times as fast as the baseline's the variant's comes."""
    seconds = {side: float(np.median(values)) for side, values in sides.items()}
    return {"seconds": seconds, "speedup": median_ratio(sides[baseline], sides["variant"])}


def passes(contenders: int, baselines: int, rounds: int) -> int:
    """How many forward passes `measure` makes."""
    timed = (WARM_UP + rounds) * (1 + baselines + contenders)
    return timed + 2 * (1 + contenders) + (contenders + baselines) * (WARM_UP + _stage_rounds(rounds))


def _clocked(variant: Variant, module: nn.Module, clock: StageClock) -> AbstractContextManager[Any]:
    return variant.on(module, clock=clock)


def _stage_rounds(rounds: int) -> int:
    return max(3, rounds // 3)


def _counted(forward: Forward, variant: Variant, module: nn.Module, images: Tensor) -> tuple[float, int]:
    """FLOPs of one image, and the peak memory of the batch in bytes."""
    with variant.on(module):
        counted = flops(forward, images) / len(images)
        with torch.inference_mode():
            return counted, peak_bytes(lambda: forward(images), images.device)


def _cost(
    forward: Forward,
    one: Timed,
    module: nn.Module,
    images: Tensor,
    full: tuple[float, int],
    sides: Mapping[str, np.ndarray],
    load: Load,
    attention: float,
) -> dict[str, Any]:
    """``sides``: seconds of full, exact and the variant in the same rounds; ``attention``: its share of the time of exact.

    "floor": the share of the baseline's time that would remain if the swapped attention cost nothing, the bound on any speedup.
    """
    baseline = min(("full", "exact"), key=lambda name: float(np.median(sides[name])))
    counted, peak = _counted(forward, one.variant, module, images)
    rounds = len(sides["full"])
    shares = stages(forward, partial(_clocked, one.variant, module), images, _stage_rounds(rounds))
    batch = len(images)
    return {
        "speedup": median_ratio(sides[baseline], sides["variant"]),
        "baseline": baseline,
        "sampling_share": shares.get("sampling", 0.0),
        "images_per_second": {name: batch / float(np.median(values)) for name, values in sides.items()},
        "flops": {"full": full[0], "variant": counted},
        "peak_memory_bytes": {"full": full[1], "variant": peak},
        "stages": shares,
        "batch_size": batch,
        "rounds": rounds,
        "measurement": judge(sides[baseline], sides["variant"], load),
        "floor": min(1.0, (1 - attention) * float(np.median(sides["exact"])) / float(np.median(sides[baseline]))),
    }
