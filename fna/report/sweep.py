"""Many results side by side: what differs between them, one line each, and the sentence that sums them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fna.report import formats, words
from fna.report.expected import Expected, Theirs, load_expected
from fna.report.grid import fold, numeric_columns
from fna.report.results import FOLLOWS, IDENTITY, Run, dig, number, overrides, ratio, reference, setting
from fna.report.words import Part

Column = tuple[str, Callable[[Run], Part]]
SHOWN = 3  # failed jobs that are named where many failed alike


@dataclass(frozen=True)
class Summary:
    """A sweep as a table: ``common`` is what all runs share, ``rows`` one line of cells for each whole result."""

    title: list[Part]
    common: list[tuple[str, str]]
    heads: list[str]
    rows: list[list[Part]]
    numeric: list[bool]  # for each column, whether it holds numbers
    failures: list[tuple[str, str]]  # which, and why; those that failed alike in one line
    notes: list[str]
    sources: list[str]  # whose the figures beside ours are
    best: int | None  # the row that the title names
    theirs: list[Theirs]  # what others measured, where no run of ours stands beside it


def varying(runs: Sequence[Run]) -> list[str]:
    """The settings in which the runs differ, typed ones beside the identity, without those that only follow another."""
    keys = [key for key in _settings(runs) if _differs(runs, key)]
    return [key for key in keys if FOLLOWS.get(key) not in keys]


def label(run: Run, keys: Sequence[str]) -> str:
    """A run by what sets it apart; by its folder where nothing does."""
    values = {key: setting(run.result, key) for key in keys}
    return ", ".join(formats.said(key, value) for key, value in values.items() if value is not None) or run.name


def group(run: Run, keys: Sequence[str], without: str) -> str:
    """The line of a plot to which a run belongs: all that differs but the quantity along the axis."""
    values = {key: setting(run.result, key) for key in keys if key != without}
    said = [formats.said(key, value) for key, value in values.items() if value not in (None, "none")]
    return " · ".join(said) or formats.name(run.result.get("attn"))


def summarise(runs: Sequence[Run]) -> Summary:
    """The table of a sweep."""
    whole = [run for run in runs if run.ok]
    keys = varying(whole)
    shared = whole[0].result if whole else {}
    same = [key for key in _settings(whole) if key in IDENTITY or key not in FOLLOWS]
    same = [key for key in same if not _differs(whole, key) and setting(shared, key) not in (None, "none")]
    common = [(formats.field_name(key), formats.value_of(key, setting(shared, key))) for key in same]
    expected = load_expected([run.result for run in whole])
    notes = [*words.caveats(*(run.result for run in whole)), *expected.problems]
    found = best(whole)
    title = _title(len(whole), found, keys, len(runs) - len(whole))
    columns = _columns(whole, keys, expected)
    heads, rows, once = fold([head for head, _ in columns], [[cell(run) for _, cell in columns] for run in whole])
    best_row = whole.index(found[0]) if found else None
    return Summary(
        title,
        common + once,
        heads,
        rows,
        numeric_columns(rows),
        _failures(runs),
        notes,
        expected.sources(),
        best_row,
        expected.tables(),
    )


def best(runs: Sequence[Run]) -> tuple[Run, bool] | None:
    """The fastest run that shows no loss (untimed: the best of these), and True; if all lose, the one that loses least, and False.

    None where the runs are not of one model on one data set, or their metrics are findings: then nothing is better than another.
    Full attention beside itself, as ``auto`` may leave it, is none of them.
    """
    if set(varying(runs)) & {"model", "dataset", "task"}:
        return None
    rated = [run for run in runs if words.weakest(run.result) not in {None, *formats.FINDINGS} and not words.is_idle(run.result)]
    safe = [run for run in rated if words.judge(*_delta(run)) in ("keeps", "gains")]
    if safe:
        return max(safe, key=lambda run: (_speed(run) or 0.0, number(_delta(run)[0]) or 0.0)), True
    return (max(rated, key=lambda run: -100.0 if (delta := number(_delta(run)[0])) is None else delta), False) if rated else None


def _speed(run: Run) -> float | None:
    return number(dig(run.result, "cost", "speedup", "median"))


def _delta(run: Run) -> tuple[object, object, object]:
    metric = dig(run.result, "metrics", words.weakest(run.result) or "")
    return dig(metric, "delta"), dig(metric, "ci"), run.result.get("samples")


def _title(count: int, found: tuple[Run, bool] | None, keys: Sequence[str], failed: int) -> list[Part]:
    said = _count(count, "comparison") + (f" and {_count(failed, 'failure')}" if failed else "") + "."
    if found is None:
        return [Part(said)]
    run, safe = found
    told = ("attn", "landmarks", "layers", "reduce", "mask", "mask_start")
    extra = [key for key in keys if key not in told and setting(run.result, key) not in (None, "none")]
    lead = "None is shown to keep the quality; the closest"
    if safe:
        lead = "The best that keeps the quality" if _speed(run) is None else "The fastest that keeps the quality"
    return [Part(f"{said} {lead}: "), *words.headline(run.result, label(run, extra) if extra else "")]


def _settings(runs: Sequence[Run]) -> list[str]:
    """The identity, and what else was typed for any of the runs."""
    return [*IDENTITY, *dict.fromkeys(key for run in runs for key in overrides(run.result))]


def _differs(runs: Sequence[Run], key: str) -> bool:
    return len({str(setting(run.result, key)) for run in runs}) > 1


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _metrics(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in words.primary(run.result)))


def _why(run: Run) -> str:
    return str(run.result.get("error") or f"status {run.result.get('status')}").partition("\n")[0]


def _failures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The failed jobs by the words in which the jobs differ, and why: a line for each reason."""
    typed = [set(words) for run in runs if (words := run.result.get("overrides"))]
    shared = set.intersection(*typed) if typed else set()
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if not run.ok:
            own = " ".join(word for word in run.result.get("overrides") or [] if word not in shared)
            reasons.setdefault(_why(run), []).append(f"{run.name} ({own})" if own else run.name)
    return [
        (", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""), why)
        for why, names in reasons.items()
    ]


def _columns(runs: Sequence[Run], keys: Sequence[str], expected: Expected) -> list[Column]:
    """What sets the runs apart, the quality metric by metric, fidelity, cost."""
    return [
        *(_identity(key, place == 0) for place, key in enumerate(keys)),
        *([] if keys else [("run", lambda run: Part(run.name))]),
        *(column for metric in _metrics(runs) for column in _of_metric(metric, runs, expected)),
        ("agreement", lambda run: Part(formats.fixed(dig(run.result, "fidelity", "agreement"), 1, " %"))),
        ("output error", lambda run: Part(formats.fixed(dig(run.result, "fidelity", "output_error"), 3))),
        ("speedup", lambda run: Part(formats.times(dig(run.result, "cost", "speedup", "median")), words.judge_speed(run.result))),
        ("95 % interval", lambda run: Part(formats.limits(dig(run.result, "cost", "speedup", "ci")))),
        ("against", lambda run: Part(reference(run.result) if run.result.get("cost") else formats.NOTHING)),
        ("operations", lambda run: Part(formats.times(ratio(run.result, "cost", "flops")))),
        ("sampling", lambda run: Part(formats.share(dig(run.result, "cost", "sampling_share")))),
    ]


def _identity(key: str, first: bool) -> Column:
    """A key in which the runs differ; the first column marks the runs of which a note says that they say nothing."""

    def cell(run: Run) -> Part:
        return Part(formats.value_of(key, setting(run.result, key)) + (" !" if first and words.is_doubtful(run.result) else ""))

    return formats.field_name(key), cell


def _of_metric(metric: str, runs: Sequence[Run], expected: Expected) -> list[Column]:
    """Full, variant, their difference; beside them the variant without its mask and what others measured, where there is any."""

    def value(run: Run, *path: str) -> object:
        return dig(run.result, *path[:-1], "metrics", metric, path[-1])

    def tone(run: Run) -> str:
        return words.tone(metric, dig(run.result, "metrics", metric))

    def theirs(run: Run, whose: str) -> Part:
        return Part(expected.text(run.result, metric, whose))

    short = formats.metric_short(metric)
    columns: list[Column] = [
        (f"{short} of full", lambda run: Part(formats.fixed(value(run, "full")))),
        (short, lambda run: Part(formats.fixed(value(run, "variant")))),
        ("delta", lambda run: Part(formats.signed(value(run, "delta"), 2), tone(run))),
        ("95 % interval", lambda run: Part(formats.span(value(run, "ci"), 2))),
    ]
    if any(run.result.get("unmasked") for run in runs):
        columns.append((f"{short} unmasked", lambda run: Part(formats.fixed(value(run, "unmasked", "variant")))))
        columns.append(("delta", lambda run: Part(formats.signed(value(run, "unmasked", "delta"), 2))))
    sources = dict.fromkeys(figure.source for run in runs for figure in expected.beside(run.result) if figure.metric == metric)
    return columns + [(f"{short}, {whose}", partial(theirs, whose=whose)) for whose in sources]
