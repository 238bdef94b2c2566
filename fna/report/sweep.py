"""Many results side by side: what differs between them, one line each, and the sentence that sums them up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fna.report import words
from fna.report.results import IDENTITY, Run, dig, number, ratio, reference
from fna.report.words import Part

FOLLOWS = {"checkpoint": "model", "tokens": "image_size", "split": "dataset"}  # said already by the field it follows


@dataclass(frozen=True)
class Summary:
    """A sweep as a table: ``common`` is what all runs share, ``rows`` one line of cells for each whole result."""

    title: list[Part]
    common: list[tuple[str, str]]
    heads: list[str]
    rows: list[list[Part]]
    numeric: list[bool]  # for each column, whether it holds numbers
    failures: list[tuple[str, str]]
    notes: list[str]
    best: int | None  # the row that the title names


def varying(runs: Sequence[Run]) -> list[str]:
    """The keys of the identity in which the runs differ, without those that only follow another."""
    keys = [key for key in IDENTITY if _differs(runs, key)]
    return [key for key in keys if FOLLOWS.get(key) not in keys]


def label(run: Run, keys: Sequence[str]) -> str:
    """A run by what sets it apart; by its folder where nothing does."""
    return ", ".join(words.said(key, run.result.get(key)) for key in keys) or run.name


def group(run: Run, keys: Sequence[str], without: str) -> str:
    """The line of a plot to which a run belongs: all that differs but the quantity along the axis."""
    values = {key: run.result.get(key) for key in keys if key != without}
    said = [words.said(key, value) for key, value in values.items() if value not in (None, "none")]
    return " · ".join(said) or words.name(run.result.get("attn"))


def summarise(runs: Sequence[Run]) -> Summary:
    """The table of a sweep."""
    whole = [run for run in runs if run.ok]
    keys = varying(whole)
    shared = whole[0].result if whole else {}
    same = [key for key in IDENTITY if not _differs(whole, key) and shared.get(key) not in (None, "none")]
    common = [(words.field_name(key), words.value_of(key, shared[key])) for key in same]
    notes = list(dict.fromkeys(note for run in whole for note in words.caveats(run.result)))
    failures = [(run.name, _why(run)) for run in runs if not run.ok]
    found = best(whole)
    title = _title(len(whole), found, keys, len(failures))
    heads, rows, once = _fold(_heads(whole, keys), [_row(run, keys, _metrics(whole)) for run in whole])
    best_row = whole.index(found[0]) if found else None
    return Summary(title, common + once, heads, rows, numeric_columns(rows), failures, notes, best_row)


def numeric_columns(rows: Sequence[Sequence[Part]]) -> list[bool]:
    """For each column whether all of its cells look like numbers, intervals or nothing."""
    return [all(cell.text[:1] in "+-–[0123456789" for cell in column) for column in zip(*rows, strict=True)]


def best(runs: Sequence[Run]) -> tuple[Run, bool] | None:
    """The fastest run that shows no loss, and True; if all lose, the one that loses least, and False.

    None where the runs are not of one model on one data set: then nothing is faster or better than another.
    """
    if set(varying(runs)) & {"model", "dataset", "task"}:
        return None
    rated = [run for run in runs if words.weakest(run.result)]
    safe = [run for run in rated if words.judge(*_delta(run)) in ("keeps", "gains")]
    if safe:
        return max(safe, key=lambda run: number(dig(run.result, "cost", "speedup", "median")) or 0.0), True
    return (max(rated, key=lambda run: -100.0 if (delta := number(_delta(run)[0])) is None else delta), False) if rated else None


def _delta(run: Run) -> tuple[object, object, object]:
    metric = dig(run.result, "metrics", words.weakest(run.result) or "")
    return dig(metric, "delta"), dig(metric, "ci"), run.result.get("samples")


def _title(count: int, found: tuple[Run, bool] | None, keys: Sequence[str], failed: int) -> list[Part]:
    said = _count(count, "comparison") + (f" and {_count(failed, 'failure')}" if failed else "") + "."
    if found is None:
        return [Part(said)]
    run, safe = found
    extra = [key for key in keys if key not in ("attn", "landmarks", "layers", "reduce", "mask")]
    lead = "The fastest that keeps the quality" if safe else "None is shown to keep the quality; the closest"
    return [Part(f"{said} {lead}: "), *words.headline(run.result, label(run, extra) if extra else "")]


def _differs(runs: Sequence[Run], key: str) -> bool:
    return len({str(run.result.get(key)) for run in runs}) > 1


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _metrics(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in words.primary(run.result)))


def _heads(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    heads = [words.field_name(key) for key in keys or ["run"]]
    for metric in map(words.metric_short, _metrics(runs)):
        heads += [f"{metric} of full", metric, "delta", "95 % interval"]
    return [*heads, "agreement", "output error", "speedup", "95 % interval", "against", "operations", "sampling"]


def _fold(heads: list[str], rows: list[list[Part]]) -> tuple[list[str], list[list[Part]], list[tuple[str, str]]]:
    """Take out the columns that say the same in every row; they are said once, above the table."""
    once = {
        place
        for place, head in enumerate(heads)
        if len(rows) > 1 and head.endswith((" of full", "against")) and len({row[place] for row in rows}) == 1
    }
    same = [(heads[place], rows[0][place].text) for place in sorted(once)]
    kept = [place for place in range(len(heads)) if place not in once]
    return [heads[place] for place in kept], [[row[place] for place in kept] for row in rows], same


def _why(run: Run) -> str:
    return str(run.result.get("error") or f"status {run.result.get('status')}").partition("\n")[0]


def _row(run: Run, keys: Sequence[str], metrics: Sequence[str]) -> list[Part]:
    result = run.result
    cells = [Part(words.value_of(key, result.get(key))) for key in keys] or [Part(run.name)]
    cells[0] = Part(cells[0].text + (" !" if words.is_doubtful(result) else ""))
    for key in metrics:
        metric = dig(result, "metrics", key)
        delta, ci = dig(metric, "delta"), dig(metric, "ci")
        mark = words.tone(key, metric)
        cells += [
            Part(words.fixed(dig(metric, "full"))),
            Part(words.fixed(dig(metric, "variant"))),
            Part(words.signed(delta, 2), mark),
            Part(words.span(ci, 2)),
        ]
    fidelity, cost = result.get("fidelity"), result.get("cost")
    cells += [Part(words.fixed(dig(fidelity, "agreement"), 1, " %")), Part(words.fixed(dig(fidelity, "output_error"), 3))]
    speedup = dig(cost, "speedup")
    cells += [Part(words.times(dig(speedup, "median")), words.judge_speed(result)), Part(words.limits(dig(speedup, "ci")))]
    operations = words.times(ratio(result, "cost", "flops"))
    against = reference(result) if cost else words.NOTHING
    return [*cells, Part(against), Part(operations), Part(words.share(dig(cost, "sampling_share")))]
