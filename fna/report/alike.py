"""Lines that every word would call the same: what tells them apart is an option that nobody typed, else the run they are of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fna.report.results import IDENTITY, Run, dig, overrides, setting

RUN = "run"
PATH = "FNA_CPU_PATH"
REMARK = (
    "lines that only their run tells apart: the code of a method, weights or pictures under one name changed between them "
    "(hash in results.csv)"
)


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs; of those alike in all that was typed each says which options differ (``untold``), or its own name."""
    typed = dict.fromkeys(key for run in runs for key in overrides(run.result))
    groups: dict[str, list[Run]] = {}
    for run in runs:
        known = [setting(run.result, key) for key in (*IDENTITY, *typed, "label")]
        groups.setdefault(json.dumps(known, default=str), []).append(run)
    named = {id(run): made for group in groups.values() for run, made in zip(group, _named(group), strict=True)}
    return [named[id(run)] for run in runs]


def _named(group: list[Run]) -> list[Run]:
    rows = {(run.result.get("hash"), dig(run.result, "environment", "cpu_path")) for run in group}
    if len(rows) < 2:  # one row, beside the figures of others for one
        return group
    each: list[dict[str, Any]] = [dict(dig(run.result, "options") or {}) for run in group]
    if len({path for _, path in rows}) > 1:  # the same figures at another speed
        each = [one | {PATH: _path(run)} for one, run in zip(each, group, strict=True)]
    keys = [key for key in dict.fromkeys(key for one in each for key in one) if len({str(one.get(key)) for one in each}) > 1]
    if len({str([one.get(key) for key in keys]) for one in each}) < len(rows):
        keys = [*keys, RUN]
    return [
        replace(run, result=run.result | {"options": {**one, RUN: run.name}, "untold": keys})
        for run, one in zip(group, each, strict=True)
    ]


def _path(run: Run) -> str:
    """The way that every piece of a run on a CPU was bound to; "timed" where the fastest was taken."""
    return str(dig(run.result, "environment", "cpu_path") or "timed")


def untold(runs: Sequence[Run]) -> list[str]:
    """What nobody typed and tells some of the runs apart."""
    return list(dict.fromkeys(key for run in runs for key in run.result.get("untold", ())))
