"""What the variants cost, measured in turns on one batch: time, FLOPs, memory, and where the time goes.

Machines are noisy, so no figure here stands alone: the variants alternate, a speedup is the median of per-round ratios with a
bootstrap interval, and the baseline is the faster of the untouched model (``full``) and exact attention through our seam
(``exact``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fna.runner.clocks import StageClock, TokenClock
from fna.runner.flops import Forward, flops
from fna.runner.memory import peak_bytes
from fna.runner.quiet import Load, Watch, judge
from fna.runner.turns import WARM_UP, in_turns, median_ratio, stages
from fna.surgery.variant import FULL, Variant


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
