"""All that lies below a folder: a section for each model on each data set with each task, each run once, the failures last.

What a day leaves is not one table: runs of unlike models on unlike data have no column in common that is worth reading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fna.report.contenders import apart
from fna.report.results import IDENTITY, Result, Run, dig, expected_files, overrides
from fna.report.sweep import SHOWN, Summary, decisive, order, summarise
from fna.report.words import Part, model, place
from fna.values import counted

SAID = ("notes", "told", "remarks", "explained")  # lines of a `Summary`


@dataclass(frozen=True)
class Section:
    """The runs of one model on one data set with one task. ``anchor``: its id on the page; ``title``: what they share."""

    anchor: str
    title: str
    runs: list[Run]
    summary: Summary


@dataclass(frozen=True)
class Day:
    """``repeated``: how many runs are left out because a newer one is equal; ``failures`` and ``unfinished``: which, and why.
    ``notes``, ``told``, ``remarks`` and ``explained``, as in a `Summary`: what several sections say, so that none of them does."""

    title: list[Part]
    sections: list[Section]
    failures: list[tuple[str, str]]
    unfinished: list[tuple[str, str]]
    repeated: int
    notes: list[str]
    told: list[str]
    remarks: list[str]
    explained: list[tuple[str, str]]

    @property
    def remark(self) -> str:
        """What was left out, in words; "" where nothing was."""
        if not self.repeated:
            return ""
        stands = "the newest stands here, one with a timing before one without"
        return f"{counted(self.repeated, 'run')} made more than once: {stands}; results.csv has all"


def read_day(found: Sequence[Run]) -> Day:
    """Sort the runs of a folder into sections."""
    once = newest(found)
    every = apart(once)
    runs = _each_once(every)
    whole = [run for run in runs if run.ok]
    groups: dict[str, list[Run]] = {}
    for run in whole:
        groups.setdefault(f"{model(run.result)} on {run.result.get('dataset')}, {run.result.get('task')}", []).append(run)
    sections = [
        _section(f"part{number}", title, sorted(members, key=order)) for number, (title, members) in enumerate(groups.items())
    ]
    title, repeated = _title(sections, len(whole), _lost(runs)), len(found) - len(once) + len(every) - len(runs)
    notes, told, remarks, explained = ([line for line, _ in _shared(sections, kind)] for kind in SAID)
    return Day(
        title,
        [_without(section, {*notes, *told, *remarks, *explained}) for section in sections] if len(sections) > 1 else sections,
        lost([run for run in runs if not is_unfinished(run)]),
        lost([run for run in runs if is_unfinished(run)]),
        repeated,
        _placed(sections, "notes"),
        _placed(sections, "told"),
        _placed(sections, "remarks"),
        explained,
    )


def _section(anchor: str, title: str, runs: list[Run]) -> Section:
    return Section(anchor, title, runs, summarise(runs))


def _shared(sections: Sequence[Section], kind: str) -> list[tuple[Any, list[Section]]]:
    """(line, where) for the lines of that kind that more than one section says."""
    each = dict.fromkeys(line for section in sections for line in getattr(section.summary, kind))
    where = [(line, [section for section in sections if line in getattr(section.summary, kind)]) for line in each]
    return [(line, those) for line, those in where if len(those) > 1]


def _placed(sections: Sequence[Section], kind: str) -> list[str]:
    """The shared lines, each with the sections that it is about, where it is not about all."""
    return [line if len(those) == len(sections) else f"{line} ({_named(those)})" for line, those in _shared(sections, kind)]


def _named(sections: Sequence[Section]) -> str:
    return "; ".join(section.title for section in sections[:SHOWN]) + (
        f"; {len(sections) - SHOWN} more" if len(sections) > SHOWN else ""
    )


def _without(section: Section, lines: Container[Any]) -> Section:
    left: dict[str, Any] = {kind: [line for line in getattr(section.summary, kind) if line not in lines] for kind in SAID}
    said = re.compile(
        rf"(, |(?<!\S)){re.escape(place(section.runs[0].result))}: "
    )  # a whole word: vit_small_patch14_dinov2 is not the section's dinov2
    title = [  # it is in the section's own
        part._replace(text=said.sub(lambda found: ": " if found[1] else "", part.text)) for part in section.summary.title
    ]
    return replace(section, summary=replace(section.summary, title=title, **left))


def newest(runs: Sequence[Run]) -> list[Run]:
    """Of runs that were made more than once the newest, of those whose speed was measured if any was; the order stays.

    It names the files of others' figures that any of them was made beside.
    """
    kept = {one.name: one for those in _equal(runs, _key) for one in [_last(those)]}
    return [kept[run.name] for run in runs if run.name in kept]


def _each_once(runs: Sequence[Run]) -> list[Run]:
    """The same of contenders beside runs, which may have run alone too; a run that holds contenders in pairs stays."""
    kept: dict[str, Run] = {}
    for those in _equal(runs, lambda result: _key({**result, "contenders": None})):
        last = _last(those)
        kept |= {run.name: run for run in those if run.result.get("pairs")} | {last.name: last}
    return [kept[run.name] for run in runs if run.name in kept]


def _equal(runs: Sequence[Run], key: Callable[[Result], str | None]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run.result) or run.name, []).append(run)
    return [*groups.values()]


def _last(equal: Sequence[Run]) -> Run:
    """The one that stands for equal runs."""
    last, files = max(reversed(equal), key=_rank), expected_files(*(run.result for run in equal))
    return replace(last, result=last.result | {"expected": files}) if len(files) > 1 else last


def _rank(run: Run) -> tuple[bool, bool, float]:
    return bool(run.result.get("cost")), bool(run.result.get("pairs")), run.made


def _key(result: Result) -> str | None:
    """What makes two runs equal: all that decides their figures and their contenders', or of failures what was typed and why.

    None: nothing told.
    """
    typed = {key: value for key, value in overrides(result).items() if not key.startswith("timing.")}
    parts: list[Any] = [sorted(typed.items(), key=str), {key: result.get(key) for key in IDENTITY}]
    parts += [dig(result, "environment", "cpu_path")]  # FNA_CPU_PATH: the same figures at another speed
    if result.get("status") == "ok" and result.get("hash"):
        parts += [result["hash"], dig(result, "rows", "full"), [dig(one, "hash") for one in result.get("contenders") or []]]
    elif result.get("overrides"):
        parts += [sorted(map(str, result["overrides"])), result.get("error")]
    else:
        return None
    return json.dumps(parts, default=str)


def _lost(runs: Sequence[Run]) -> str:
    """How many runs failed, and how many are unfinished, which a run that goes on at this moment is too."""
    unfinished = sum(map(is_unfinished, runs))
    failed = sum(not run.ok for run in runs) - unfinished
    told = ((failed, "failure"), (unfinished, "unfinished run"))
    return "".join(f" and {counted(number, what)}" for number, what in told if number)


def _title(sections: Sequence[Section], whole: int, lost: str) -> list[Part]:
    if len(sections) == 1:
        first, *rest = sections[0].summary.title  # the count, then the sentence on the one to take
        count, dot, lead = first.text.partition(".")
        return [Part(f"{count}{lost}{dot}{lead}", first.mark), *rest]
    among = f" in {len(sections)} sections, one for each model, data set and task" if sections else ""
    return [Part(f"{counted(whole, 'comparison')} with full attention{among}{',' if among and lost else ''}{lost}.")]


def _why(run: Run) -> str:
    return str(run.result.get("error") or f"status {run.result.get('status')}").partition("\n")[0]


def is_unfinished(run: Run) -> bool:
    """Whether a run was started and came to no end, neither good nor bad."""
    return run.result.get("status") == "unfinished"


def lost(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The jobs without a result by the words in which those of one reason differ, and why: a line for each reason."""
    reasons: dict[str, list[Run]] = {}
    for run in runs:
        if not run.ok:
            reasons.setdefault(_why(run), []).append(run)
    typed = [set(words) for run in runs if (words := run.result.get("overrides"))]
    everywhere = set.intersection(*typed) if len(typed) > 1 else set()
    return [(_jobs(those, everywhere), why) for why, those in reasons.items()]


def _folder(run: Run) -> str:
    """Where a run lies below the report's folder; of the one in that itself the folder's name."""
    return f"{run.folder.resolve().name}{run.name[1:]}" if re.match(r"\.(:|$)", run.name) else run.name


def _jobs(runs: Sequence[Run], everywhere: set[str]) -> str:
    """Jobs by their folders and what of their words sets them apart."""
    typed = [set(run.result.get("overrides") or []) for run in runs]
    shared = set.intersection(*typed) if len(runs) > 1 else everywhere
    own = [" ".join(word for word in run.result.get("overrides") or [] if word not in shared and decisive(word)) for run in runs]
    places = [_folder(run) for run in runs]
    named = [f"{place} ({words})" if words else place for place, words in zip(places, own, strict=True)]
    return ", ".join(named[:SHOWN]) + (f" and {len(named) - SHOWN} more" if len(named) > SHOWN else "")
