"""Whether a timing is a measurement: what other processes took of the processor meanwhile, and whether its two halves agree.

On a busy machine a ratio of two times may be wrong and its interval narrow all the same: each side is slowed by another amount,
round after round. So two things are asked of the machine and of the rounds, not of the interval:

- The time that all others had on the cores that this process may use: ``/proc/stat`` (what other machines took of a virtual one
  included) less our own (`os.times`). Where there is no such file the load average stands in.
- The median ratio of the first half of the rounds and that of the second must be the same within their intervals or `NEAR`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from fna.values import LEAST_ROUNDS, counted

STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)  # of a line of STAT: user, nice, system, irq, softirq, steal
CROWDED = 0.15  # cores lacking for each of our threads above which the times are those of the crowd
NEAR = 0.05  # by which the ratios of the two halves may differ whatever their intervals say
TICKS = 2  # of the kernel's counters, by which what they say of a core may be off


@dataclass(frozen=True)
class Load:
    """How busy the machine was: ``others`` cores that other processes kept busy, of ``cores`` that this one may use.

    ``threads``: how many cores we work on. ``source``: what ``others`` was read from; None where the machine tells nothing.
    """

    others: float | None
    cores: int
    threads: int
    source: str = "/proc/stat"

    @property
    def crowded(self) -> bool:
        """Whether our threads had to wait for others."""
        return self.others is not None and self.others + self.threads - self.cores > CROWDED * self.threads

    def said(self) -> str:
        """Who we had to wait for, in a few words; "" for nobody."""
        if not self.crowded:
            return ""
        were, plural = "was" if self.threads == 1 else "were", "s" * (self.cores > 1)
        return f"other processes took {self.others:.1f} of {self.cores} core{plural} while {self.threads} {were} needed"

    def facts(self) -> dict[str, Any]:
        """For ``result.json``."""
        others = None if self.others is None else round(self.others, 2)
        return {"others": others, "cores": self.cores, "threads": self.threads, "source": self.source}


class Watch:
    """A with block during which the load is noted: `load` after it."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @classmethod
    def of(cls, device: torch.device) -> Watch:
        """For work on a device: beside a GPU one thread of ours waits."""
        return cls(torch.get_num_threads() if device.type == "cpu" else 1)

    def __enter__(self) -> Watch:
        self._began, self._own, self._all = time.perf_counter(), own_seconds(), busy_seconds(cores())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        wall, own, busy = time.perf_counter() - self._began, own_seconds() - self._own, busy_seconds(cores())
        if busy is not None and self._all is not None:
            unsure = TICKS * len(cores()) / os.sysconf("SC_CLK_TCK")
            others = max(0.0, busy - self._all - own - unsure) / wall
            self.load = Load(others, len(cores()), self.threads)
        else:
            self.load = _by_average(self.threads)


def cores() -> tuple[int, ...]:
    """The cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return tuple(sorted(allowed(0))) if allowed else tuple(range(os.cpu_count() or 1))


def own_seconds() -> float:
    """Seconds of processor that this process has had, all threads together."""
    times = os.times()
    return times.user + times.system


def busy_seconds(which: tuple[int, ...]) -> float | None:
    """Seconds that these cores have not been idle since the machine started; None where it does not tell."""
    try:
        lines = STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    wanted = {f"cpu{core}" for core in which}
    ticks = 0
    for name, *fields in (line.split() for line in lines if line.startswith("cpu")):
        if name in wanted:
            ticks += sum(int(fields[place]) for place in BUSY if place < len(fields))
    return ticks / os.sysconf("SC_CLK_TCK")


def _by_average(threads: int) -> Load:
    """The load average of the last minute less our own threads, which were in it throughout."""
    try:
        return Load(max(0.0, os.getloadavg()[0] - threads), len(cores()), threads, "load average")
    except (AttributeError, OSError):
        return Load(None, len(cores()), threads, "nothing on this system")


def judge(baseline: np.ndarray, variant: np.ndarray, load: Load) -> dict[str, Any]:
    """The verdict on seconds ``[rounds]`` of two contenders timed in turns: ``{"quiet", "reasons", "halves", "load"}``.

    ``reasons``: why the ratio is no measurement, a few words each; empty where it is one.
    """
    reasons = [load.said()] if load.crowded else []
    if len(baseline) < LEAST_ROUNDS:
        reasons.append(f"{counted(len(baseline), 'round')} are too few to be held against each other ({LEAST_ROUNDS} are enough)")
    halves = _halves(np.asarray(baseline, float) / np.asarray(variant, float))
    if halves is not None and not _agree(*halves):
        first, second = (float(np.median(half)) for half in halves)
        reasons.append(f"the first half of the rounds gives {first:.2f}x, the second {second:.2f}x")
    medians = None if halves is None else [float(np.median(half)) for half in halves]
    return {"quiet": not reasons, "reasons": reasons, "halves": medians, "load": load.facts()}


def _halves(ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    return None if len(ratios) < LEAST_ROUNDS else (ratios[: len(ratios) // 2], ratios[len(ratios) // 2 :])


def _agree(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two medians are within `NEAR` of each other, or each within the interval of the other."""
    one, other = np.median(first), np.median(second)
    if abs(np.log(one / other)) <= np.log1p(NEAR):
        return True
    (a, b), (c, d) = _interval(first), _interval(second)
    return bool(a <= other <= b and c <= one <= d)


def _interval(ratios: np.ndarray, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    drawn = np.median(np.random.default_rng(0).choice(ratios, (draws, len(ratios))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
