"""One run, stage by stage: what was asked, what was loaded, the variants, their outcomes, the comparisons, what is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fna.errors import UserError
from fna.metrics.compare import aligned
from fna.models.base import Model
from fna.progress import bar, say
from fna.runner import cost, env, result, shown
from fna.runner.asked import Asked
from fna.runner.clocks import TokenClock
from fna.runner.compared import Compared, Ran, Versus
from fna.runner.failures import keep_traceback, line, mendable
from fna.runner.kept import kept_costs
from fna.runner.loaded import Loaded
from fna.runner.outcomes import Rows, Scored
from fna.runner.rows import heard
from fna.runner.settled import Contender, settle
from fna.runner.wanted import Wanted
from fna.surgery.trunk import Trunk
from fna.surgery.variant import FULL
from fna.tasks.base import Writing, notes
from fna.tasks.images import first_images
from fna.values import counted

Made = TypeVar("Made")


@dataclass(frozen=True)
class Field:
    """The contenders that are ready to run; ``lost``: those that are not, and why; ``warnings``: heard on the way."""

    contenders: list[Contender]
    lost: dict[str, str]
    warnings: list[str]


def line_up(asked: Asked, loaded: Loaded, folder: Path) -> Field:
    """Every contender made ready. Raises `UserError` where none is left; then nothing has run."""
    lost: dict[str, str] = {}
    with heard() as said:
        found = _each(asked.contenders, lambda wanted: settle(wanted, loaded), len(asked.contenders) == 1, lost, folder)
    return Field([contender for each in found for contender in each], lost, said)


def contest(asked: Asked, loaded: Loaded, field: Field, folder: Path, started: float) -> dict[str, Any]:
    """Full attention beside every contender on the same samples; writes its pictures into ``folder``, returns ``result.json``.

    A contender that refuses or fails among others is told in its own line. Raises `UserError` where none is left.
    """
    contenders, lost = field.contenders, dict(field.lost)

    def each(these: Sequence[Any], make: Callable[[Any], Made]) -> list[Made]:
        return _each(these, make, len(asked.contenders) == 1, lost, folder)

    rows = Rows(loaded, asked.cfg.seed, asked.cfg.retry_failed, _trunk(loaded, contenders).shared)
    full = rows.scored(FULL)
    ran = each(contenders, lambda one: Ran(one, _beside(full, rows.scored(one.variant))))
    reading = loaded.run.reading
    read, limits = reading.record(), reading.notes()
    if read:
        say("; ".join([reading.sentence(), *limits]))
    cfg = asked.cfg
    errors = getattr(loaded.task, "errors", ())
    versus = Versus(full, ran, loaded.task.metrics, draws=cfg.bootstrap, seed=cfg.seed, errors=errors)
    beside = each(ran, lambda one: (one, versus.full(one)))
    pairs = versus.pairs([one for one, _ in beside])
    with heard() as said:
        costs = _costs(asked, loaded, [one for one, _ in beside], folder) if cfg.timing.enabled else [{} for _ in beside]
        compared = [
            Compared(one.contender, one.scored, comparison, cost) for (one, comparison), cost in zip(beside, costs, strict=True)
        ]
        files = shown.hang(folder, loaded, rows, full, compared, cfg.gallery)
    entries = _entries(asked.contenders, compared, lost, loaded.model)
    told = {
        "environment": env.environment(str(loaded.model.device)),
        "overrides": result.typed(folder),
        "warnings": [*field.warnings, *said],
        "notes": [*notes(loaded.task, full.outcome, loaded.dataset), *limits],
        "reading": read,
        "files": files,
        "seconds": round(time.perf_counter() - started, 2),
    }
    return result.whole(asked, loaded, full, entries, pairs, told)


def _each(these: Sequence[Any], make: Callable[[Any], Made], alone: bool, lost: dict[str, str], folder: Path) -> list[Made]:
    """What ``make`` gives for each. A contender that fails is raised if it is ``alone``, else goes to ``lost`` with the reason."""
    made = []
    for one in these:
        try:
            made.append(make(one))
        except (Exception, SystemExit) as raised:
            error = mendable(raised)
            if alone:
                raise error from raised
            lost[one.label] = line(error)
            keep_traceback(error, folder)
            say(f"failed: {one.label}: {lost[one.label]}")
    if not made:
        raise UserError("; ".join(dict.fromkeys(lost.values())))
    return made


def _beside(full: Scored, scored: Scored) -> Scored:
    """``scored``, if it holds the samples of ``full``."""
    aligned(full.outcome.keys, scored.outcome.keys)
    return scored


def _trunk(loaded: Loaded, contenders: Sequence[Contender]) -> Trunk:
    """The blocks that no contender changes."""
    depth = loaded.model.depth
    shared = 0 if loaded.model.writes else min(one.variant.first_block(depth) for one in contenders)
    return Trunk(loaded.model.tower, shared, env.spare_bytes())


def _costs(asked: Asked, loaded: Loaded, ran: Sequence[Ran], folder: Path) -> list[dict[str, Any]]:
    timing, contenders = asked.cfg.timing, [one.contender for one in ran]
    rows, machine = [one.scored.key for one in ran], env.environment(str(loaded.model.device))
    if (kept := kept_costs(folder, rows, timing.rounds, timing.batch_size, machine)) is not None:
        say(f"cost: as this sweep measured it before ({folder}); another hydra.sweep.dir measures anew")
        return kept
    first = getattr(loaded.task, "first", first_images)
    images = first(loaded.model, loaded.dataset, timing.batch_size)
    timed = [cost.Timed(one.variant, one.baseline) for one in contenders]
    said = f"cost: full, exact and {', '.join(one.label for one in contenders)} in turns, {counted(timing.rounds, 'round')}"
    say(f"{said}: the speeds come from here alone")
    baselines = len({tuple(one.layers) for one in contenders})
    task, model, tokens = loaded.task, loaded.model, TokenClock(loaded.model.device)
    forward = partial(task.write, model, told=tokens.told) if isinstance(task, Writing) else task.forward(model)
    with bar("cost, in passes", cost.passes(len(timed), baselines, timing.rounds)) as progress:
        return cost.measure(forward, model.tower, timed, images, rounds=timing.rounds, progress=progress, tokens=tokens)


def _entries(asked: Sequence[Wanted], compared: Sequence[Compared], lost: dict[str, str], model: Model) -> list[dict[str, Any]]:
    """All contenders in the order in which they were asked for, those that failed included."""
    found = [result.entry(one, model) for one in compared]
    bare = [replace(one, label=f"{one.label} without its mask", names={**one.names, "mask": "none"}) for one in asked]
    each = [one for both in zip(asked, bare, strict=True) for one in both]
    order = [one.label for one in each]
    found += [result.failed_entry(one, lost[one.label]) for one in each if one.label in lost]
    return sorted(found, key=lambda one: order.index(one["label"]))
