"""Many contenders in one result: each as a run of its own, and every two of them side by side.

``result.json`` describes the first variant at its root. ``contenders`` holds the others in the same form, with a ``label``; what
one of them does not say is as in the first. ``pairs`` compares every two: ``{"a", "b", "metrics": {name: {...}}}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fna.report import formats
from fna.report.grid import Grid
from fna.report.results import Result, Run, dig, interval, number
from fna.report.sweep import label, varying
from fna.report.words import Part

OWN = ("contenders", "pairs", "gallery", "auto", "plan", "warnings", "skipped", "error", "mask_blocks", "mask_start")


def apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, with each contender of one as a run after it."""
    return [each for run in runs for each in (run, *_others(run))]


def _others(run: Run) -> list[Run]:
    found = run.result.get("contenders")
    others = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    shared = {key: value for key, value in run.result.items() if key not in OWN}
    of_all = {key: _of_all(run.result, others, key) for key in ("warnings", "notes")}
    made = []
    for place, own in enumerate(others):
        if own.get("hash") is not None and own.get("hash") == run.result.get("hash"):
            continue  # the first variant itself
        label = str(own.get("label") or place)
        typed = [*_inherited(run.result, own), *(word for word in label.split() if "=" in word)]
        told = {key: [*lines, *(own.get(key) or [])] for key, lines in of_all.items()}
        made.append(replace(run, name=f"{run.name}: {label}", result={**shared, "overrides": typed, **own, **told}, contender=True))
    return made


def _of_all(first: Result, each: Sequence[Result], key: str) -> list[Any]:
    """The lines under ``key`` that are of the whole run and of no one contender, such as that the model is in training mode."""
    own = {str(line) for one in each for line in one.get(key) or []}
    return [line for line in first.get(key) or [] if str(line) not in own]


def _inherited(first: Result, own: Result) -> list[str]:
    """The words typed for the first that hold for another one too: ``kv.budget=0.5`` is not what ``kv=random`` runs with, which has
    its own budget."""
    words = [str(word) for word in first.get("overrides") or []]
    theirs, ours = dig(first, "options") or {}, dig(own, "options")
    if not isinstance(ours, Mapping):  # of a failure, or from before results held options
        return words
    return [word for word in words if theirs.get(key := word.lstrip("+").partition("=")[0]) == ours.get(key)]


def pairs(result: Result, metrics: Sequence[str] | None = None) -> Grid | None:
    """A row for every two contenders and metric, of all or of those named; None where there are none.

    A tie, an interval that holds zero, is marked "tie".
    """
    names = _names(result)
    rows = [
        _row(pair, key, metric, names)
        for pair in result.get("pairs") or []
        for key, metric in (dig(pair, "metrics") or {}).items()
        if metrics is None or key in metrics
    ]
    return (["first", "second", "metric", "second - first", "95 % interval", "McNemar p"], rows) if rows else None


def _names(result: Result) -> dict[str, str]:
    """How the table side by side calls each contender, by what was typed for it; what was typed where two are called alike."""
    runs = apart([Run(Path(), "", result)])
    keys = varying(runs)
    called = {str(run.result.get("label")): label(run, keys) for run in runs}
    first = next((str(one.get("label")) for one in result.get("contenders") or [] if one.get("hash") == result.get("hash")), None)
    called |= {first: called.pop("None")} if first is not None and "None" in called else {}
    return called if len(set(called.values())) == len(called) else {}


def _row(pair: Any, key: str, metric: Any, names: Mapping[str, str]) -> list[Part]:
    ends, chance = interval(dig(metric, "ci")), number(dig(metric, "mcnemar_p"))
    mark = "tie" if ends is not None and ends[0] <= 0 <= ends[1] else ""
    cells = [*(names.get(str(pair.get(side)), str(pair.get(side))) for side in "ab"), formats.metric_name(key)]
    cells += formats.change(dig(metric, "delta"), ends, 2)
    cells.append(formats.NOTHING if chance is None else f"{chance:.3f}" if chance >= 0.001 else "< 0.001")
    return [Part(cell, mark) for cell in cells]
