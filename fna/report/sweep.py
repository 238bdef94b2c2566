"""Many results side by side: what differs between them, one line each, and the sentence that sums them up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fna.report import alike, formats, notes, seeds, verdicts, words, writing
from fna.report.crossover import crossovers
from fna.report.expected import Expected, Theirs, load_expected
from fna.report.grid import fold, numeric_columns
from fna.report.results import FOLLOWS, IDENTITY, SILENT, Result, Run, dig, natural, number, overrides, ratio, reference, setting
from fna.report.seeds import merged, spread
from fna.report.words import Part
from fna.values import counted

Column = tuple[str, Callable[[Run], Part]]
OF_ATTENTION = ("sampler", "pieces")
QUIET = ("bootstrap", "timing.batch_size", "timing.enabled", "timing.rounds")  # how a run was measured, not what
SIZE = ("image_size", "tokens")
SHOWN = 3  # runs that are named where the same is said of many


@dataclass(frozen=True)
class Summary:
    """A sweep as a table: ``common`` is what all runs share, ``rows`` one line of cells for each whole result."""

    title: list[Part]
    common: list[tuple[str, str]]
    heads: list[str]
    rows: list[list[Part]]
    numeric: list[bool]  # for each column, whether it holds numbers
    notes: list[str]  # what is wrong
    told: list[str]  # what else the runs say of themselves
    remarks: list[str]  # for the foot of the table
    explained: list[tuple[str, str]]  # (head of a column, what it means)
    sources: list[str]  # whose the figures beside ours are
    best: int | None  # the row that the title names, where it is one to take
    theirs: list[Theirs]  # what others measured, where no run of ours stands beside it
    own: int  # how many columns at the left say which run a line is about
    labels: list[str]  # what they say in words, for each line: the first of them, and below it the others


def varying(runs: Sequence[Run]) -> list[str]:
    """The settings in which the runs differ, typed ones beside the identity, without those that only follow another."""
    keys = [key for key in _settings(runs) if key not in QUIET and _differs(runs, key)]
    return [key for key in keys if FOLLOWS.get(key) not in keys and not _told_by_attention(runs, key)]


def decisive(word: str) -> bool:
    """Whether a typed word says what was compared, not how it was measured or where it is kept."""
    key = word.lstrip("+").partition("=")[0]
    return key not in QUIET and key.partition(".")[0] not in SILENT


def _told_by_attention(runs: Sequence[Run], key: str) -> bool:
    """Whether a setting of the attentions has one value for each of them, so that their names say it already."""
    both = {(str(run.result.get("attn")), str(setting(run.result, key))) for run in runs}
    return key in OF_ATTENTION and len(both) == len({attn for attn, _ in both})


def label(run: Run, keys: Sequence[str]) -> str:
    """A run by what sets it apart; by its folder where nothing does."""
    values = {key: setting(run.result, key) for key in keys}
    return ", ".join(formats.said(key, value) for key, value in values.items() if value is not None) or run.name


def order(run: Run) -> tuple[Any, ...]:
    """Where a run stands among others: those on the most samples first, then by method, count of landmarks and the rest."""
    samples = number(run.result.get("samples")) or 0
    method = [formats.value_of(key, run.result.get(key)).casefold() for key in ("attn", "reduce", "mask", "sampler")]
    count = run.result.get("landmarks")
    counted = number(count)
    rest = [natural(formats.value_of(key, run.result.get(key))) for key in ("layers", "image_size", "seed")]
    return (-samples, method, counted is None, counted or 0.0, str(count), rest)


def _described(run: Run, keys: Sequence[str]) -> str:
    first, rest = keys[:1], [key for key in keys[1:] if setting(run.result, key) != "none"]
    doubt = " !" if notes.is_doubtful(run.result) else ""
    return "\n".join(filter(None, [label(run, first) + doubt, label(run, rest) if rest else ""]))


def group(run: Run, keys: Sequence[str], without: str) -> str:
    """The line of a plot to which a run belongs: all that differs but the quantity along the axis."""
    values = {key: setting(run.result, key) for key in keys if key != without}
    said = [formats.said(key, value) for key, value in values.items() if value not in (None, "none")]
    return " · ".join(said) or formats.name(run.result.get("attn"))


def summarise(runs: Sequence[Run]) -> Summary:
    """The table of whole runs; those that differ in their seed alone are one line."""
    whole = merged(runs)
    keys = varying(whole)
    shared = whole[0].result if whole else {}
    same = [key for key in _settings(whole) if key in IDENTITY or key not in FOLLOWS]
    same = [
        key
        for key in same
        if not _differs(whole, key) and setting(shared, key) not in (None, "none", "unknown", []) and key not in QUIET
    ]
    common = [(formats.field_name(key), formats.value_of(key, setting(shared, key))) for key in same]
    results = [run.result for run in whole]
    expected = load_expected(results)
    crossed = pays(whole, keys)
    found = None if crossed and not _metrics(whole) else best(whole)  # of sizes that score nothing, speed is what is asked
    title = [*_title(len(runs), whole, found, keys, crossed), *writing.control_sentence(runs)]
    columns = _columns(whole, keys, expected)
    heads, rows, once = fold([head for head, _ in columns], [[cell(run) for _, cell in columns] for run in whole])
    best_row = whole.index(found[0]) if found else None
    return Summary(
        title,
        common + once,
        heads,
        rows,
        numeric_columns(rows),
        [*_caveats(whole, keys), *expected.problems],
        notes.told(*results),
        [
            *crossed,
            *notes.remarks(*results),
            *([seeds.REMARK] if any("seeds" in result for result in results) else []),
            *([alike.REMARK] if alike.RUN in alike.untold(whole) else []),
        ],
        notes.explained(*results),
        expected.sources(),
        best_row,
        expected.tables(),
        max(1, len(keys)),
        [_described(run, keys) for run in whole],
    )


def pays(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """From how many tokens on each line of runs is faster than full attention, in a sentence each."""
    found = crossovers(runs, lambda run: group(run, [key for key in keys if key not in SIZE], "tokens"))
    return [crossed.sentence(name) for name, crossed in found.items()]


FASTEST = "The fastest that keeps the quality"
BEST = "The best that keeps the quality"
NOT_FASTER = "None that keeps the quality is faster; the best of them"
CLOSEST = "None is shown to keep the quality; the closest"
NEAREST = "The nearest to full attention"
TOO_FEW = "Too few samples to show that quality is kept; the closest"


def best(runs: Sequence[Run]) -> tuple[Run, str] | None:
    """The run to name first, and in which words.

    The fastest of those that show no loss, if it is faster beyond the noise; else the best of them; if all lose, the one that
    loses least; of equal ones that with the smaller output error. None where the runs are not of one model on one data set, or
    their metrics are findings: then nothing is better than another. Where nothing is right or wrong, the one that agrees with full
    most often. Full attention beside itself, as ``auto`` may leave it, is
    none of them, nor are runs on fewer samples than others, and exact attention is not the closest to itself.
    """
    if set(varying(runs)) & {"model", "dataset", "task"}:
        return None
    rated = [run for run in runs if verdicts.told_by(run.result) not in {"", *formats.FINDINGS} and not words.is_idle(run.result)]
    most = max((number(run.result.get("samples")) or 0 for run in rated), default=0)
    whole = [run for run in rated if (number(run.result.get("samples")) or 0) == most]
    on = f" of those on {most:g} samples" if len(whole) < len(rated) else ""
    rated = whole
    safe = [run for run in rated if verdicts.verdict(run.result) in ("keeps", "gains")]
    faster = [run for run in safe if words.judge_speed(run.result) == "good"]
    if faster:
        return max(faster, key=lambda run: (_speed(run) or 0.0, *_quality(run))), FASTEST + on
    if safe:
        timed = any(_speed(run) is not None for run in safe)
        return max(safe, key=_quality), (NOT_FASTER if timed else BEST) + on
    rated = [run for run in rated if not _is_full(run.result)] or rated
    few = 0 < most < verdicts.FEW and any(verdicts.verdict(run.result) == "unclear" for run in rated)
    scored = any(run.result.get("metrics") for run in rated)
    lead = (TOO_FEW if few else CLOSEST) if scored else NEAREST
    return (max(rated, key=_nearness), lead + on) if rated else None


def _is_full(result: Result) -> bool:
    """Whether nothing is approximated: exact attention, nothing reduced or masked."""
    return result.get("attn") == "exact" and all(result.get(key) in (None, "none") for key in ("reduce", "mask"))


def _speed(run: Run) -> float | None:
    """The speedup; None where it was not measured, or the machine was too busy to."""
    return None if words.unmeasured(run.result) else number(dig(run.result, "cost", "speedup", "median"))


def _quality(run: Run) -> tuple[float, float]:
    """The difference; of equal ones, which few samples often give, the smaller output error is the better."""
    delta, error = verdicts.gained(run.result)[0], number(dig(run.result, "fidelity", "output_error"))
    return -100.0 if delta is None else delta, -math.inf if error is None else -error


def _nearness(run: Run) -> tuple[float, float, float]:
    """The loss, the agreement and the output error: a gain within the noise is not nearer to full than no difference."""
    delta, error = _quality(run)
    return min(delta, 0.0), number(dig(run.result, "fidelity", "agreement")) or 0.0, error


def _caveats(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """The notes of all runs; those whose speed was not measured in one line that names them."""
    busy = [run for run in runs if words.unmeasured(run.result)]
    wrong = notes.caveats(*(run.result | {"cost": {}} if run in busy else run.result for run in runs))
    if not busy:
        return wrong
    reasons: dict[str, list[Run]] = {}
    for run in busy:
        reasons.setdefault(words.unmeasured(run.result), []).append(run)
    told = [f"({_named(those, keys)}): {why}" for why, those in list(reasons.items())[:SHOWN]]
    told += [counted(len(reasons) - SHOWN, "more reason")] if len(reasons) > SHOWN else []
    again = notes.again(*(run.result for run in busy))
    return [*wrong, f"speedups in brackets are no measurements {'; '.join(told)}; {again}"]


def _named(runs: Sequence[Run], keys: Sequence[str]) -> str:
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return "; ".join(label(run, keys) for run in runs[:SHOWN]) + more


def _title(
    count: int, whole: Sequence[Run], found: tuple[Run, str] | None, keys: Sequence[str], crossed: Sequence[str]
) -> list[Part]:
    said = f"{counted(count, 'comparison')} with full attention{_on_lines(count, whole)}."
    if count == len(whole) == 1:
        return [Part(f"{said} "), *words.headline(whole[0].result)]
    if found is None:
        return [Part(" ".join([said, *(f"{sentence}." for sentence in crossed[:1])]))]
    run, lead = found
    told = ("attn", "landmarks", "layers", "reduce", "mask", "mask_start", "samples")
    extra = [key for key in keys if key not in told and setting(run.result, key) not in (None, "none")]
    where, sentence = words.place(run.result), words.headline(run.result, label(run, extra) if extra else "")
    said_above = words.FEW if lead.startswith(TOO_FEW) else ""
    lead += ", a control" if writing.is_control(run.result) else ""
    lead += f", {where}" if where else ""  # before the colon, which is then the only one
    return [
        Part(f"{said} {lead}: "),
        *(part._replace(text=part.text.replace(f"{where}: ", "", 1).replace(said_above, "")) for part in sentence),
    ]


def _on_lines(count: int, whole: Sequence[Run]) -> str:
    if count == len(whole):
        return ""
    together = "the seeds of a setting" if any("seeds" in run.result for run in whole) else "equal runs"
    return f" in {counted(len(whole), 'line')}, {together} together"


def _settings(runs: Sequence[Run]) -> list[str]:
    """The identity, what else was typed for any of the runs, and what tells apart those that no word does."""
    return [*IDENTITY, *dict.fromkeys([*(key for run in runs for key in overrides(run.result)), *alike.untold(runs)])]


def _differs(runs: Sequence[Run], key: str) -> bool:
    return len({str(setting(run.result, key)) for run in runs}) > 1


def _metrics(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in verdicts.primary(run.result)))


def _columns(runs: Sequence[Run], keys: Sequence[str], expected: Expected) -> list[Column]:
    """What sets the runs apart, the quality metric by metric, fidelity, cost."""
    return [
        *(_identity(key, place == 0) for place, key in enumerate(keys)),
        *([] if keys else [("run", lambda run: Part(run.name))]),
        *(column for metric in _metrics(runs) for column in _of_metric(metric, runs, expected)),
        (_agreement(runs), lambda run: Part(formats.agreement(dig(run.result, "fidelity", "agreement")))),
        *_others("agreement", _agreement(runs), runs, expected),
        ("output error", lambda run: Part(formats.fixed(dig(run.result, "fidelity", "output_error"), 3))),
        *_others("output_error", "output error", runs, expected),
        ("speedup", _speedup),
        ("95 % interval", _speedup_ends),
        ("against", lambda run: Part(reference(run.result) if run.result.get("cost") else formats.NOTHING)),
        ("operations", lambda run: Part(formats.times(ratio(run.result, "cost", "flops")))),
        ("memory", lambda run: Part(formats.times(ratio(run.result, "cost", "peak_memory_bytes")))),
        *writing.columns(runs),
        ("sampling", lambda run: Part(words.timed(formats.share(dig(run.result, "cost", "sampling_share")), run.result))),
    ]


def _agreement(runs: Sequence[Run]) -> str:
    return "i2t agreement" if {run.result.get("task") for run in runs} == {"retrieval"} else "agreement"


def _speedup(run: Run) -> Part:
    """The speedup; in brackets where the machine was too busy for a measurement."""
    text = formats.times(dig(run.result, "cost", "speedup", "median"))
    return Part(words.timed(text, run.result), words.judge_speed(run.result))


def _speedup_ends(run: Run) -> Part:
    """The interval of a speedup that was measured: on a busy machine it is narrow all the same."""
    return Part(formats.NOTHING if words.unmeasured(run.result) else formats.limits(dig(run.result, "cost", "speedup", "ci")))


def _identity(key: str, first: bool) -> Column:
    """A key in which the runs differ; the first column marks the runs of which a note says that they say nothing."""

    def cell(run: Run) -> Part:
        return Part(formats.value_of(key, setting(run.result, key)) + (" !" if first and notes.is_doubtful(run.result) else ""))

    return formats.field_name(key), cell


def _of_metric(metric: str, runs: Sequence[Run], expected: Expected) -> list[Column]:
    """Full, variant, their difference; beside them the variant without its mask and what others measured, where there is any."""

    def value(run: Run, *path: str) -> object:
        return dig(run.result, *path[:-1], "metrics", metric, path[-1])

    def tone(run: Run) -> str:
        return verdicts.tone(metric, dig(run.result, "metrics", metric))

    def change(run: Run) -> tuple[str, str]:
        return formats.change(value(run, "delta"), value(run, "ci"), 2)

    short = formats.metric_short(metric)
    columns: list[Column] = [
        (f"{short} of full", lambda run: Part(formats.fixed(value(run, "full")))),
        (short, lambda run: Part(formats.fixed(value(run, "variant")))),
        ("delta", lambda run: Part(change(run)[0], tone(run))),
        ("95 % interval", lambda run: Part(change(run)[1])),
    ]
    if any("seeds" in run.result for run in runs):
        columns.append(("over seeds", lambda run: Part(spread(run.result, metric))))
    return columns + _others(metric, short, runs, expected)


def _others(metric: str, called: str, runs: Sequence[Run], expected: Expected) -> list[Column]:
    """What others measured of it, a column a source."""

    def theirs(run: Run, whose: str) -> Part:
        return Part(expected.text(run.result, metric, whose))

    sources = dict.fromkeys(figure.source for run in runs for figure in expected.beside(run.result) if figure.metric == metric)
    return [(f"{called}, {whose}", partial(theirs, whose=whose)) for whose in sources]
