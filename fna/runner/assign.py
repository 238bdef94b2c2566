"""``layers={auto: [fna_local, fna_plus]}``: which method each block gets, measured once on images that the run does not test.

- What a method loses in a block is the relative error of the model's *output*, all else exact. A block's own error misleads: what
  all tokens of a group are off by together adds up in later blocks, what averages out does not (docs/fna_local.md).
- What it saves is measured on the block's own q, k, v, in turns with exact attention, its draws inside (shared by the blocks
  that share them). Where it is no faster, as where tokens are few, the block keeps full attention.
- Block by block, the least squared error for the time saved first, methods are taken as long as the output of *all* that were taken
  stays within ``tolerance``; one that saves more may take the place of one that saves less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fna.metrics.compare import relative_error
from fna.models.base import Model
from fna.ops.contract import Attention, Memo, Site
from fna.ops.exact import Exact
from fna.progress import say
from fna.records import kept
from fna.runner.auto import measured_on
from fna.runner.quiet import Watch
from fna.runner.rows import row_key
from fna.runner.speed.turns import in_turns
from fna.surgery.blocks import find_tower
from fna.surgery.swap import swap_tower
from fna.tasks.base import Array, Task
from fna.values import counted
from fna.versions import settings, versions

VERSION, ROUNDS = 1, 5
EXACT = "exact"

Methods = Mapping[str, Attention]
Table = dict[int, dict[str, float]]  # block -> method -> figure


@dataclass(frozen=True)
class Assigned:
    """What was chosen. ``methods``: block -> name, blocks that are not in it keep full attention; ``error``: of the whole plan's
    output; ``errors``: that of each method in one block alone; ``speedups``: times as fast there as exact attention; ``busy``: who
    they had to wait for while they were timed.
    """

    methods: dict[int, str]
    error: float
    why: list[str]
    errors: Table
    speedups: Table
    busy: str = ""

    def blocks(self, depth: int) -> tuple[int, ...]:
        """The changed blocks; the last one, which then runs exact attention, where nothing was worth it."""
        return tuple(sorted(self.methods)) or (depth - 1,)

    def ops(self, methods: Methods) -> dict[int, Attention]:
        """The attention of every changed block."""
        return {block: methods[name] for block, name in self.methods.items()}

    def plan(self) -> str:
        """As it would be typed: ``1-5: fna_local, 6-11: fna_plus``."""
        runs = groupby(enumerate(sorted(self.methods)), lambda at: (at[1] - at[0], self.methods[at[1]]))
        blocks = [(name, [block for _, block in run]) for (_, name), run in runs]
        return ", ".join(f"{run[0]}-{run[-1]}: {name}" if len(run) > 1 else f"{run[0]}: {name}" for name, run in blocks)


def assign(model: Model, task: Task, methods: Methods, images: Tensor, *, tolerance: float, cache: Path | None = None) -> Assigned:
    """Decide between exact attention and ``methods`` in every block that sees the whole image, on ``images`` ``[B, 3, h, w]``.

    ``cache``: a folder in which a choice is found again by model, task, methods, images and machine.
    """
    rivals = {name: op for name, op in methods.items() if not isinstance(op, Exact)}
    asked = {name: [settings(op), versions(op)] for name, op in rivals.items()}
    told = {"assign": VERSION, "methods": asked, "task": [settings(task), versions(task)], "tolerance": tolerance}
    file = None if cache is None else cache / f"{row_key({**told, **measured_on(model, images)})}.json"
    found = kept(file, lambda: asdict(_assigned(model, task.forward(model), rivals, images, tolerance)))
    return Assigned(**found | {key: _by_block(found[key]) for key in ("methods", "errors", "speedups")})


def _by_block(found: Mapping[str, Any]) -> dict[int, Any]:
    """A record's table, whose blocks JSON turned into text."""
    return {int(block): value for block, value in found.items()}


def _assigned(model: Model, forward: Callable[[Tensor], Tensor], methods: Methods, images: Tensor, tolerance: float) -> Assigned:
    tower = find_tower(model.tower)
    blocks = tower.layers("all")
    say(f"layers: {' or '.join([EXACT, *methods])} in each of {counted(len(blocks), 'block')}, measured on {len(images)} images")
    pace = _Pace(methods)
    with torch.inference_mode():
        full = _flat(forward(images))
        with Watch.of(model.device) as watch, swap_tower(tower, dict.fromkeys(blocks, pace)):
            forward(images)

        def error(plan: Mapping[int, str]) -> float:
            with swap_tower(tower, {block: methods[name] for block, name in plan.items()}):
                return float(relative_error(full, _flat(forward(images))).mean())

        speedups = pace.speedups()
        faster = {block: [name for name, speed in speeds.items() if speed > 1] for block, speeds in speedups.items()}
        errors = {block: {name: error({block: name}) for name in names} for block, names in faster.items()}
        plan, reached = _taken(errors, speedups, error, tolerance)
    why = [_reason(block, plan.get(block), errors[block], speedups[block], tolerance) for block in blocks]
    return Assigned(dict(sorted(plan.items())), reached, why, errors, speedups, watch.load.said())


def _flat(out: Tensor) -> Array:
    """Outputs ``[B, ...]`` as `relative_error` takes them, ``[B, F]``."""
    return out.reshape(len(out), -1).float().cpu().numpy()


class _Pace:
    """Exact attention that times, in every block, the methods in turns with it; each keeps what it drew in earlier blocks."""

    def __init__(self, methods: Methods) -> None:
        self.methods = methods
        self.memos: dict[str, Memo] = {name: {} for name in methods}
        self.seconds: dict[int, dict[str, float]] = {}
        self.drew: dict[str, list[int]] = {name: [] for name in methods}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """Exact attention."""
        calls = {name: partial(self._call, name, q, k, v, site) for name in self.methods}
        seconds = in_turns({EXACT: lambda turn: Exact()(q, k, v, site), **calls}, ROUNDS, q.device, warm_up=1)
        self.seconds[site.layer] = {name: float(np.median(values)) for name, values in seconds.items()}
        for name, memo in self.memos.items():
            before = {key: id(value) for key, value in memo.items()}
            self.methods[name](q, k, v, replace(site, memo=memo))
            if before != {key: id(value) for key, value in memo.items()}:
                self.drew[name].append(site.layer)
        return Exact()(q, k, v, site)

    def _call(self, name: str, q: Tensor, k: Tensor, v: Tensor, site: Site, turn: int) -> Tensor:
        return self.methods[name](q, k, v, replace(site, memo=dict(self.memos[name])))

    def speedups(self) -> Table:
        """Times as fast as exact attention. Blocks that share a draw share what it takes."""
        found: Table = {block: {} for block in self.seconds}
        for name, drew in self.drew.items():
            for _, run in groupby(found, key=lambda block: sum(start <= block for start in drew)):
                blocks = list(run)
                exact, own = (sum(self.seconds[block][one] for block in blocks) for one in (EXACT, name))
                for block in blocks:
                    found[block][name] = exact / own
        return found


def _taken(
    errors: Table, speedups: Table, error: Callable[[Mapping[int, str]], float], tolerance: float
) -> tuple[dict[int, str], float]:
    """The plan, and the error of its output."""
    saved = {block: {name: 1 - 1 / speedups[block][name] for name in found} for block, found in errors.items()}
    moves = [(block, name) for block, found in errors.items() for name, alone in found.items() if alone <= tolerance]
    plan: dict[int, str] = {}
    reached = 0.0
    for block, name in sorted(moves, key=lambda move: errors[move[0]][move[1]] ** 2 / saved[move[0]][move[1]]):
        if block in plan and saved[block][name] <= saved[block][plan[block]]:
            continue
        trial = {**plan, block: name}
        if (found := error(trial)) <= tolerance:
            plan, reached = trial, found
    return plan, reached


def _reason(block: int, name: str | None, errors: Mapping[str, float], speeds: Mapping[str, float], tolerance: float) -> str:
    """Why a block got what it has, in a line."""
    if name is not None:
        return f"block {block}: {name} (alone {errors[name]:.3f} off, {speeds[name]:.2f} times as fast as exact attention)"
    if not errors:
        best = max(speeds.values(), default=0.0)
        return f"block {block}: full attention, since nothing is faster (best {best:.2f} times its speed)"
    near = min(errors, key=lambda one: errors[one])
    return f"block {block}: full attention, since {near} (alone {errors[near]:.3f} off) takes the output past {tolerance:g}"
