"""All that lies below a folder: a section for each model on each data set with each task, each run once, the failures last.

What a day leaves is not one table: runs of unlike models on unlike data have no column in common that is worth reading.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fna.report.contenders import apart
from fna.report.results import IDENTITY, Result, Run, overrides
from fna.report.sweep import SHOWN, Summary, counted, summarise
from fna.report.words import Part

TOGETHER = ("model", "dataset", "task")  # what the runs of a section share


@dataclass(frozen=True)
class Section:
    """The runs of one model on one data set with one task. ``anchor``: its id on the page; ``title``: what they share."""

    anchor: str
    title: str
    runs: list[Run]
    summary: Summary


@dataclass(frozen=True)
class Day:
    """``repeated``: how many runs are left out because a newer one is equal; ``failures``: which, and why."""

    title: list[Part]
    sections: list[Section]
    failures: list[tuple[str, str]]
    repeated: int

    @property
    def remark(self) -> str:
        """What was left out, in words; "" where nothing was."""
        if not self.repeated:
            return ""
        return f"{counted(self.repeated, 'run')} made more than once: the newest stands here, results.csv has all"


def read_day(found: Sequence[Run]) -> Day:
    """Sort the runs of a folder into sections."""
    runs = apart(newest(found))
    whole = [run for run in runs if run.ok]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in whole:
        groups.setdefault(tuple(str(run.result.get(key)) for key in TOGETHER), []).append(run)
    sections = [
        Section(f"part{place}", f"{model} on {dataset}, {task}", members, summarise(members))
        for place, ((model, dataset, task), members) in enumerate(groups.items())
    ]
    return Day(_title(sections, len(whole), len(runs) - len(whole)), sections, failures(runs), len(found) - len(newest(found)))


def newest(runs: Sequence[Run]) -> list[Run]:
    """Of runs that were made more than once the newest; the order stays."""
    last: dict[str, Run] = {}
    for run in runs:
        key = _key(run.result) or run.name
        if key not in last or run.made >= last[key].made:
            last[key] = run
    kept = {run.name for run in last.values()}
    return [run for run in runs if run.name in kept]


def _key(result: Result) -> str | None:
    """What makes two runs equal: all that decides their figures, or of failures what was typed and why. None: nothing told."""
    parts: list[Any] = [sorted(overrides(result).items(), key=str), {key: result.get(key) for key in IDENTITY}]
    if result.get("status") == "ok" and result.get("hash"):
        parts += [result["hash"], result.get("rows"), result.get("expected")]
    elif result.get("overrides"):
        parts += [sorted(map(str, result["overrides"])), result.get("error")]
    else:
        return None
    return json.dumps(parts, default=str)


def _title(sections: Sequence[Section], whole: int, failed: int) -> list[Part]:
    lost = f" and {counted(failed, 'failure')}" if failed else ""
    if len(sections) == 1:
        first, *rest = sections[0].summary.title  # the count, then the sentence on the one to take
        count, dot, lead = first.text.partition(".")
        return [Part(f"{count}{lost}{dot}{lead}", first.mark), *rest]
    among = f" of {counted(len(sections), 'kind')}" if sections else ""
    return [Part(f"{counted(whole, 'comparison')}{among}{lost}.")]


def _why(run: Run) -> str:
    return str(run.result.get("error") or f"status {run.result.get('status')}").partition("\n")[0]


def failures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The failed jobs by the words in which the jobs differ, and why: a line for each reason."""
    typed = [set(words) for run in runs if (words := run.result.get("overrides"))]
    shared = set.intersection(*typed) if len(typed) > 1 else set()
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if not run.ok:
            own = " ".join(word for word in run.result.get("overrides") or [] if word not in shared)
            reasons.setdefault(_why(run), []).append(f"{run.name} ({own})" if own else run.name)
    return [
        (", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""), why)
        for why, names in reasons.items()
    ]
