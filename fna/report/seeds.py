"""Runs that differ in their seed alone, as one: means over the seeds, with the spread that the seeds make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fna.report import formats
from fna.report.alike import told_apart
from fna.report.results import IDENTITY, Result, Run, dig, expected_files, interval, number, overrides, setting

REMARK = (
    "95 % interval: over samples, the mean of the seeds' intervals; over seeds: the smallest and the largest difference; cost: "
    "that of the first seed"
)


def merged(runs: Sequence[Run]) -> list[Run]:
    """One run for those that differ in nothing but the seed, in the place of the first; the others as they are.

    Runs of one seed and of other rows stay apart: code, weights or pictures changed between them, which no word tells.
    """
    groups: dict[str, list[Run]] = {}
    typed = sorted({key for run in runs for key in overrides(run.result)})
    for run in runs:
        groups.setdefault(_but_seed(run.result, typed), []).append(run)
    return told_apart([one for group in groups.values() for one in _together(group)])


def _together(group: list[Run]) -> list[Run]:
    seeds = {run.result.get("seed") for run in group}
    if len({(run.result.get("seed"), run.result.get("hash")) for run in group}) > len(seeds):
        return group
    one = group[0] if len(seeds) < 2 else _mean(group)
    files = expected_files(*(run.result for run in group))
    return [replace(one, result=one.result | {"expected": files}) if len(files) > 1 else one]


def spread(result: Result, metric: str) -> str:
    """The smallest and the largest difference over the seeds, ``-0.40 to +0.10``; nothing for a single seed."""
    ends = interval(dig(result, "seeds", "spread", metric))
    return formats.NOTHING if ends is None else f"{formats.signed(ends[0], 2)} to {formats.signed(ends[1], 2)}"


def _but_seed(result: Result, typed: Sequence[str]) -> str:
    own = {key: result.get(key) for key in IDENTITY if key != "seed"}
    others = [setting(result, key) for key in typed]
    speed = dig(result, "environment", "cpu_path")  # FNA_CPU_PATH: the same figures at another speed
    return json.dumps([own, others, result.get("recipe"), result.get("label"), speed], default=str)


def _mean(group: Sequence[Run]) -> Run:
    results = [run.result for run in group]
    first = results[0]
    spread_of: dict[str, list[float] | None] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for key in first.get("metrics") or {}:
        each = [dig(result, "metrics", key) for result in results]
        deltas = [value for one in each if (value := number(dig(one, "delta"))) is not None]
        metrics[key] = {part: _average([dig(one, part) for one in each]) for part in ("full", "variant", "delta")}
        metrics[key] |= {"better": each[0]["better"]} if dig(each[0], "better") else {}
        metrics[key]["ci"] = [_average([(interval(dig(one, "ci")) or (None, None))[side] for one in each]) for side in (0, 1)]
        spread_of[key] = [min(deltas), max(deltas)] if deltas else None
    fidelity = {key: _average([dig(result, "fidelity", key) for result in results]) for key in ("agreement", "output_error")}
    values = [result.get("seed") for result in results]
    whole = sorted(value for value in values if isinstance(value, int))
    said = formats.ranges(whole) if len(whole) == len(values) else "+".join(map(str, values))
    seeds = {"values": values, "spread": spread_of}
    return replace(group[0], result=first | {"metrics": metrics, "fidelity": fidelity, "seeds": seeds, "seed": said})


def _average(values: Sequence[Any]) -> float | None:
    found = [value for value in map(number, values) if value is not None]
    return sum(found) / len(found) if found else None
