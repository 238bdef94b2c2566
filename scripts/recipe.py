"""What the trainings of the embedded models (`make zoo`) share: the rate's schedule, files written whole, losses, a tuned start."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

# glibc gives large blocks back to the kernel after every operation; it reads these at start-up, so a script starts itself anew.
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
RECORDED = 200  # first steps whose losses are kept beside the card
# Training runs in bfloat16, whose products differ between makes of processor (8.7e-3 in the first losses between an AMD EPYC and an
# Intel Xeon); in float32 what is apart is rounding, which grows with the steps.
CHECKED = 10  # first steps whose losses in float32 are kept there
TOLERANCE = 1e-3

Log = list[dict[str, float]]


class Stage(Protocol):
    """A part of a training: its steps, and the rate at which they learn."""

    @property
    def rate(self) -> float: ...

    @property
    def steps(self) -> int: ...


def rate_at(step: int, stages: Sequence[Stage], warm_up: int, decay: float) -> tuple[float, int]:
    """Learning rate of a step, and the number of its stage: linear warm-up, level, and half a cosine at the very end.

    ``warm_up``: steps at the start of a stage in which it rises. ``decay``: the share of the last stage in which it falls to 0;
    before that it is level, so that a stage's end can be put off.
    """
    number = 0
    while step >= stages[number].steps and number + 1 < len(stages):
        step -= stages[number].steps
        number += 1
    stage = stages[number]
    warm = min(1.0, (step + 1) / warm_up)
    falling = max(0.0, 1 - (stage.steps - step) / (decay * stage.steps)) if number + 1 == len(stages) else 0.0
    return stage.rate * warm * (1 + math.cos(math.pi * falling)) / 2, number


def save(path: Path, state: Mapping[str, Any]) -> None:
    """A checkpoint, whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def write_losses(path: Path, names: Sequence[str], log: Log, mark: str = "step") -> None:
    """Every loss of the first RECORDED steps; after that each tenth step, and each that has a ``mark`` of its own."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(names)
        for row in log:
            if row["step"] < RECORDED or row["step"] % 10 == 0 or (mark != "step" and mark in row):
                table.writerow([f"{row[name]:.6g}" if name in row else "" for name in names])


def check(log: Log, recorded: Path, name: str) -> int:
    """0 where the first losses, in float32, equal the recorded ones in the column ``name``."""
    with recorded.open() as file:
        known = {int(row["step"]): float(row[name]) for row in csv.DictReader(file)}
    apart = {int(row["step"]): abs(row[name] - known[int(row["step"])]) for row in log}
    worst = max(apart, key=lambda step: apart[step])
    print(f"{len(apart)} steps, furthest apart at step {worst}: {apart[worst]:.2e} (allowed {TOLERANCE:.0e})")
    return int(not apart[worst] <= TOLERANCE)


def tuned(settings: Mapping[str, str]) -> None:
    """Start the script anew with these in the environment, where they are not there."""
    if not settings.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})
