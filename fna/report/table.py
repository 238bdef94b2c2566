"""Tables for the terminal and for table.md: one result in full, or a sweep with one line a result."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fna.report import formats, notes, verdicts, words, writing
from fna.report.contenders import apart, pairs
from fna.report.day import Section, read_day
from fna.report.decisions import decisions
from fna.report.expected import Expected, Theirs, load_expected
from fna.report.fitting import fitted
from fna.report.grid import Grid, numeric_columns
from fna.report.results import Result, Run, dig, load, number, ratio, reference, write_text
from fna.report.sweep import Summary
from fna.report.words import Part

WIDE = 400
STYLES = {"good": "green", "bad": "red", "even": "bold", "tie": "dim", "": ""}
SIDES = ("full", "exact", "variant")


def show(result: Result, console: Console | None = None) -> None:
    """Print one result: what was compared, the metrics in pairs, fidelity and cost."""
    console = console or _console()
    _lines(console, words.headline(result), words.compared(result))
    expected = load_expected([result])
    _notes(console, [*notes.caveats(result), *expected.problems])
    if result.get("status") == "ok":
        for heads, rows in _grids(result, expected):
            console.print(_table(heads, rows))
        _remarks(console, [*notes.remarks(result), *notes.at_ceiling(result), *(text for _, text in notes.explained(result))])
    _remarks(console, [*notes.told(result), *expected.sources()])


def show_sweep(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print many results: a table for each model, data set and task with a line a result, the failures last."""
    console = console or _console()
    day = read_day(runs)
    console.print(_text(day.title), style="bold", soft_wrap=True)
    _notes(console, day.notes)
    heads = [head for section in day.sections for head in _section(console, section, alone=day.sections == [section])]
    if feet := [*day.remarks, *_meanings(day.explained, heads), *day.told, *filter(None, [day.remark])]:
        console.print()
        _remarks(console, feet)
    for place, why in day.unfinished:
        console.print(Text(f"unfinished in folder {place}: {why}", style="yellow"), soft_wrap=True)
    for place, why in day.failures:
        console.print(Text(f"failed in folder {place}: {why}", style="red"), soft_wrap=True)


def _section(console: Console, section: Section, alone: bool) -> list[str]:
    """Print a section; the heads of its table that there was room for."""
    summary = section.summary
    if not alone:
        console.print()
        console.print(Text(section.title, style="bold underline"), soft_wrap=True)
        console.print(_text(summary.title), soft_wrap=True)
    console.print(Text(_common(summary), style="dim"), soft_wrap=True)
    _notes(console, summary.notes)
    heads, rows, lost = fitted(summary.heads, summary.rows, summary.labels, summary.own, partial(_has_room, console))
    console.print(_table(heads, rows, gap=2 if _has_room(console, heads, rows, gap=2) else 1))
    if lost:
        _remarks(console, [f"no room here for {', '.join(lost)}: report.html and results.csv have all columns"])
    for grid in filter(None, (pairs(run.result, verdicts.primary(run.result)[:1]) for run in section.runs if not run.contender)):
        console.print(_table(*grid))
    _remarks(console, [*summary.remarks, *_meanings(summary.explained, heads), *summary.told, *summary.sources])
    for theirs in summary.theirs:
        console.print(Text(theirs.title, style="bold"), soft_wrap=True)
        console.print(_table(theirs.heads, theirs.rows))
    return heads


def _meanings(explained: Sequence[tuple[str, str]], heads: Sequence[str]) -> list[str]:
    """What the columns mean that are shown."""
    return [text for column, text in explained if any(head.endswith(column) for head in heads)]


def _common(summary: Summary) -> str:
    return " · ".join(f"{key} {value}" for key, value in summary.common)


def write_markdown(folder: Path | str, runs: Sequence[Run] | None = None) -> Path:
    """Write ``table.md`` into ``folder``: the result at it, or the sweep below it; of ``runs`` alone where they are given."""
    runs = load(folder) if runs is None else runs
    path = Path(folder) / "table.md"
    write_text(path, markdown(runs[0].result) if len(apart(runs)) == 1 else sweep_markdown(runs))
    return path


def markdown(result: Result) -> str:
    """What `show` prints, as Markdown."""
    expected = load_expected([result])
    grids = [_pipes(*grid) for grid in _grids(result, expected)] if result.get("status") == "ok" else []
    lines = [f"**{_escape(words.plain(words.headline(result)))}**", _escape(" · ".join(words.compared(result)))]
    quotes = _quotes([*notes.caveats(result), *expected.problems])
    said = [*notes.remarks(result), *notes.at_ceiling(result), *(text for _, text in notes.explained(result))] if grids else []
    foot = _foot([*said, *notes.told(result), *expected.sources()])
    return "\n\n".join([*lines, *quotes, *grids, *foot]) + "\n"


def sweep_markdown(runs: Sequence[Run]) -> str:
    """What `show_sweep` prints, as Markdown."""
    day = read_day(runs)
    lines = [f"**{_escape(words.plain(day.title))}**", *_quotes(day.notes)]
    for section in day.sections:
        summary = section.summary
        if len(day.sections) > 1:
            lines += [f"## {_escape(section.title)}", _escape(words.plain(summary.title))]
        lines += [_escape(_common(summary)), *_quotes(summary.notes), _pipes(summary.heads, summary.rows)]
        lines += [_pipes(*grid) for run in section.runs if not run.contender and (grid := pairs(run.result)) is not None]
        foot = [*summary.remarks, *(text for _, text in summary.explained), *summary.told, *summary.sources]
        lines += [*_foot(foot), *map(_theirs_pipes, summary.theirs)]
    lines += _foot([*day.remarks, *(text for _, text in day.explained), *day.told, *filter(None, [day.remark])])
    kinds = (("unfinished", day.unfinished), ("failed", day.failures))
    lost = "\n".join(f"- {kind} {_escape(f'in folder {place}: {why}')}" for kind, those in kinds for place, why in those)
    return "\n\n".join([*lines, *filter(None, [lost])]) + "\n"


def quality(result: Result, expected: Expected) -> Grid:
    """Metrics of full and variant with their paired difference; beside it what others measured, where there is any."""
    heads, cells = further(result, expected, "metrics")
    rows = []
    for key, metric in (result.get("metrics") or {}).items():
        tone = verdicts.tone(key, metric, "")
        values = [Part(formats.fixed(dig(metric, side))) for side in ("full", "variant")]
        change, span = formats.change(dig(metric, "delta"), dig(metric, "ci"), 2)
        rows.append([Part(formats.metric_name(key) + _doubt(key, result)), *values, Part(change, tone), Part(span), *cells[key]])
    return ["quality", "full", words.called(result), "delta", "95 % interval", *heads], rows


def _doubt(key: str, result: Result) -> str:
    """The mark of a score that a note says to mean nothing; what a run takes is as large whatever its answers are worth."""
    if key in verdicts.TAKEN or not notes.is_doubtful(result):
        return ""
    return " (random weights)" if words.is_random(result) else " !"


def fidelity(result: Result, expected: Expected) -> Grid:
    """How near the outputs are to those of full: measure by measure, with its interval; beside it what others measured."""
    heads, cells = further(result, expected, "fidelity")
    rows = []
    for key, value in (result.get("fidelity") or {}).items():
        if number(value) is not None:
            digits, unit = (2, " %") if key == "agreement" else (4, "")
            ends = formats.limits(dig(result, "fidelity", f"{key}_ci"), digits, "")
            rows.append([Part(fidelity_name(key, result)), Part(formats.fixed(value, digits, unit)), Part(ends), *cells[key]])
    return ["fidelity", words.called(result), "95 % interval", *heads], rows


def further(result: Result, expected: Expected, kind: str) -> tuple[list[str], dict[str, list[Part]]]:
    """Columns that only some results have, what others measured: heads, and cells by measure of a ``kind``, metrics or fidelity."""
    measures = result.get(kind) or {}
    sources = list(dict.fromkeys(figure.source for figure in expected.beside(result) if figure.metric in measures))
    cells = {key: [Part(expected.text(result, key, source)) for source in sources] for key in measures}
    return sources, cells


def cost(result: Result) -> Grid:
    """Rates of full, exact and variant, the speedup, operations, memory and the share of sampling."""
    tree, limit, timed = result.get("cost"), words.ceiling(result), partial(words.timed, result=result)
    against = f"{formats.limits(dig(tree, 'speedup', 'ci'))} against {reference(result)}"
    median = formats.times(dig(tree, "speedup", "median"))
    rows = [_only("speedup", median, against, words.judge_speed(result))]
    if words.unmeasured(result):
        rows = [_only("speedup", timed(median), "in brackets: no measurement, see above")]
    rates = (timed(formats.rate(dig(tree, "images_per_second", side))) for side in SIDES)
    rows += [[Part("images a second"), *map(Part, rates), Part("")], *writing.rows(result)]
    for called, key, unit in (("operations", "flops", "FLOP"), ("peak memory", "peak_memory_bytes", "B")):
        part = ratio(result, "cost", key)
        sides = [Part(formats.short(dig(tree, key, side), unit)) for side in SIDES]
        rows.append([Part(called), *sides, Part(f"{formats.times(part)} of full" if part is not None else "")])
    if not words.is_policy(result):
        share = timed(formats.share(dig(tree, "sampling_share")))
        rows.append(_only("sampling", share, f"of the time of {words.called(result)}"))
    if limit is not None:
        rows.append(
            _only(
                "limit",
                timed(formats.times(limit)),
                f"if the swapped attention{' alone' if words.absorbs(result) else ''} cost nothing",
            )
        )
    return ["cost", "full", "exact", words.called(result), ""], rows


def fidelity_name(key: str, result: Result) -> str:
    """How a measure of fidelity is called in a table; of retrieval, in which only one direction is looked at, which one."""
    way = ", image to text" if result.get("task") == "retrieval" else ""
    names = {"agreement": f"agreement with full{way}", "output_error": "relative output error"}
    return names.get(key, key.replace("_", " "))


def _grids(result: Result, expected: Expected) -> list[Grid]:
    grids = [quality(result, expected), fidelity(result, expected), *([cost(result)] if result.get("cost") else [])]
    decided = decisions(result)
    return [(heads, rows) for heads, rows in (*grids, *([decided] if decided else [])) if rows]


def _only(called: str, value: str, remark: str, mark: str = "") -> list[Part]:
    """A row that has a value for the variant alone."""
    return [Part(called), Part(""), Part(""), Part(value, mark), Part(remark)]


def _console() -> Console:
    """The terminal; where the output goes into a file or a pipe, wide enough that no cell is broken."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=WIDE)


def _lines(console: Console, title: Sequence[Part], facts: Sequence[str]) -> None:
    console.print(_text(title), style="bold", soft_wrap=True)
    console.print(Text(" · ".join(facts), style="dim"), soft_wrap=True)


def _notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(Text(f"! {note}", style="yellow"), soft_wrap=True)


def _remarks(console: Console, remarks: Sequence[str]) -> None:
    for remark in remarks:
        console.print(Text(remark, style="dim"), soft_wrap=console.width >= WIDE)


def _text(parts: Sequence[Part]) -> Text:
    return Text.assemble(*((part.text, STYLES.get(part.mark, "")) for part in parts))


def _table(heads: Sequence[str], rows: Sequence[Sequence[Part]], gap: int = 2) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, gap, 0, 0))
    for head, numeric in zip(heads, numeric_columns(rows), strict=True):
        table.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(part.text, style=STYLES.get(part.mark, "")) for part in row))
    return table


def _has_room(console: Console, heads: list[str], rows: list[list[Part]], gap: int = 1) -> bool:
    options = console.options.update(max_width=WIDE)
    return console.measure(_table(heads, rows, gap), options=options).maximum <= console.width


def _pipes(heads: Sequence[str], rows: Sequence[Sequence[Part]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_escape(part.text) for part in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _theirs_pipes(theirs: Theirs) -> str:
    return f"**{_escape(theirs.title)}**\n\n{_pipes(theirs.heads, theirs.rows)}"


def _foot(remarks: Sequence[str]) -> list[str]:
    return ["\n".join(f"{_escape(remark)}  " for remark in remarks)] if remarks else []


def _quotes(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"> ! {_escape(note)}  " for note in notes)] if notes else []


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
