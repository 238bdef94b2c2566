"""Tables for the terminal and for table.md: one result in full, or a sweep with one line a result."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fna.report import formats, words
from fna.report.expected import Expected, Theirs, load_expected
from fna.report.grid import Grid, numeric_columns
from fna.report.results import Result, Run, dig, load, number, ratio, reference, write_text
from fna.report.sweep import Summary, summarise
from fna.report.words import Part

WIDE = 400
FIRST_TO_GO = ("operations", "sampling", "against", "output error", "agreement")
STYLES = {"good": "green", "bad": "red", "even": "bold", "": ""}
SIDES = ("full", "exact", "variant")
UNMASKED = ("without mask", "delta", "95 % interval")


def show(result: Result, console: Console | None = None) -> None:
    """Print one result: what was compared, the metrics in pairs, fidelity and cost."""
    console = console or _console()
    _lines(console, words.headline(result), words.compared(result))
    expected = load_expected([result])
    _notes(console, [*words.caveats(result), *expected.problems], expected.sources())
    if result.get("status") == "ok":
        for heads, rows in _grids(result, expected):
            console.print(_table(heads, rows))


def show_sweep(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print a sweep: one line a result, the failures last."""
    console = console or _console()
    summary = summarise(runs)
    _lines(console, summary.title, [f"{key} {value}" for key, value in summary.common])
    _notes(console, summary.notes, summary.sources)
    if summary.rows:
        console.print(_fitting(console, summary.heads, summary.rows))
    for theirs in summary.theirs:
        console.print(Text(theirs.title, style="bold"), soft_wrap=True)
        console.print(_table(theirs.heads, theirs.rows))
    for place, why in summary.failures:
        console.print(Text(f"failed: {place}: {why}", style="red"), soft_wrap=True)


def write_markdown(folder: Path | str, runs: Sequence[Run] | None = None) -> Path:
    """Write ``table.md`` into ``folder``: the result at it, or the sweep below it; of ``runs`` alone where they are given."""
    runs = load(folder) if runs is None else runs
    path = Path(folder) / "table.md"
    write_text(path, markdown(runs[0].result) if len(runs) == 1 else sweep_markdown(runs))
    return path


def markdown(result: Result) -> str:
    """What `show` prints, as Markdown."""
    expected = load_expected([result])
    grids = [_pipes(*grid) for grid in _grids(result, expected)] if result.get("status") == "ok" else []
    lines = [f"**{_escape(words.plain(words.headline(result)))}**", _escape(" · ".join(words.compared(result)))]
    notes = _quotes([*words.caveats(result), *expected.problems, *expected.sources()])
    return "\n\n".join([*lines, *notes, *grids]) + "\n"


def sweep_markdown(runs: Sequence[Run]) -> str:
    """What `show_sweep` prints, as Markdown."""
    summary: Summary = summarise(runs)
    lines = [f"**{_escape(words.plain(summary.title))}**", _escape(" · ".join(f"{key} {value}" for key, value in summary.common))]
    grid = [_pipes(summary.heads, summary.rows)] if summary.rows else []
    failed = ["\n".join(f"- failed: {_escape(f'{place}: {why}')}" for place, why in summary.failures)] if summary.failures else []
    return (
        "\n\n".join([*lines, *_quotes([*summary.notes, *summary.sources]), *grid, *map(_theirs_pipes, summary.theirs), *failed])
        + "\n"
    )


def quality(result: Result, expected: Expected) -> Grid:
    """Metrics of full and variant with their paired difference, then how near the outputs are.

    Beside a metric: the variant without its mask, and what others measured, where there is any.
    """
    heads, cells = further(result, expected)
    mark = " (random weights)" if words.is_random(result) else " !" if words.is_doubtful(result) else ""
    rows = []
    for key, metric in (result.get("metrics") or {}).items():
        delta, ci = dig(metric, "delta"), dig(metric, "ci")
        tone = words.tone(key, metric, "")
        values = [Part(formats.fixed(dig(metric, side))) for side in ("full", "variant")]
        row = [Part(formats.metric_name(key) + mark), *values, Part(formats.signed(delta, 2), tone), Part(formats.span(ci, 2))]
        rows.append(row + cells[key])
    for key, value in (result.get("fidelity") or {}).items():
        if number(value) is not None:
            digits = 2 if key == "agreement" else 4
            ends = formats.limits(dig(result, "fidelity", f"{key}_ci"), digits, "")
            text = formats.fixed(value, digits, " %" if key == "agreement" else "")
            row = [Part(fidelity_name(key)), Part(""), Part(text), Part(""), Part(ends)]
            bare = dig(result, "unmasked", "fidelity", key)
            own = "" if bare is None else formats.fixed(bare, digits, " %" if key == "agreement" else "")
            rows.append(row + [Part(own if head == UNMASKED[0] else "") for head in heads])
    return ["quality", "full", "variant", "delta", "95 % interval", *heads], rows


def further(result: Result, expected: Expected) -> tuple[list[str], dict[str, list[Part]]]:
    """Columns that only some results have: the variant without its mask, and what others measured. Heads, and cells by metric."""
    bare, sources = dig(result, "unmasked", "metrics"), list(dict.fromkeys(figure.source for figure in expected.beside(result)))
    cells: dict[str, list[Part]] = {key: [] for key in result.get("metrics") or {}}
    for key, row in cells.items():
        if bare:
            value, delta, ends = (dig(bare, key, part) for part in ("variant", "delta", "ci"))
            row += [Part(formats.fixed(value)), Part(formats.signed(delta, 2)), Part(formats.span(ends, 2))]
        row += [Part(expected.text(result, key, source)) for source in sources]
    return [*(UNMASKED if bare else ()), *sources], cells


def cost(result: Result) -> Grid:
    """Rates of full, exact and variant, the speedup, operations, memory and the share of sampling."""
    tree, limit = result.get("cost"), words.ceiling(result)
    against = f"{formats.limits(dig(tree, 'speedup', 'ci'))} against {reference(result)}"
    rows = [_only("speedup", formats.times(dig(tree, "speedup", "median")), against, words.judge_speed(result))]
    rows.append([Part("images a second"), *(Part(formats.rate(dig(tree, "images_per_second", side))) for side in SIDES), Part("")])
    for called, key, unit in (("operations", "flops", "FLOP"), ("peak memory", "peak_memory_bytes", "B")):
        part = ratio(result, "cost", key)
        sides = [Part(formats.short(dig(tree, key, side), unit)) for side in SIDES]
        rows.append([Part(called), *sides, Part(f"{formats.times(part)} of full" if part is not None else "")])
    rows.append(_only("sampling", formats.share(dig(tree, "sampling_share")), "of the variant's time"))
    if limit is not None:
        rows.append(_only("limit", formats.times(limit), "if the swapped attention cost nothing"))
    return ["cost", *SIDES, ""], rows


def fidelity_name(key: str) -> str:
    """How a measure of fidelity is called in a table."""
    return {"agreement": "agreement with full", "output_error": "relative output error"}.get(key, key.replace("_", " "))


def _grids(result: Result, expected: Expected) -> list[Grid]:
    return [quality(result, expected), cost(result)] if result.get("cost") else [quality(result, expected)]


def _only(called: str, value: str, remark: str, mark: str = "") -> list[Part]:
    """A row that has a value for the variant alone."""
    return [Part(called), Part(""), Part(""), Part(value, mark), Part(remark)]


def _console() -> Console:
    """The terminal; where the output goes into a file or a pipe, wide enough that no cell is broken."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=WIDE)


def _lines(console: Console, title: Sequence[Part], facts: Sequence[str]) -> None:
    console.print(_text(title), style="bold", soft_wrap=True)
    console.print(Text(" · ".join(facts), style="dim"), soft_wrap=True)


def _notes(console: Console, notes: Sequence[str], sources: Sequence[str]) -> None:
    for note in notes:
        console.print(Text(f"! {note}", style="yellow"), soft_wrap=True)
    for source in sources:
        console.print(Text(source, style="dim"), soft_wrap=True)


def _text(parts: Sequence[Part]) -> Text:
    return Text.assemble(*((part.text, STYLES.get(part.mark, "")) for part in parts))


def _table(heads: Sequence[str], rows: Sequence[Sequence[Part]]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for head, numeric in zip(heads, numeric_columns(rows), strict=True):
        table.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(part.text, style=STYLES.get(part.mark, "")) for part in row))
    return table


def _fitting(console: Console, heads: list[str], rows: list[list[Part]]) -> Table:
    """The table without the columns for which a narrow terminal has no room; results.csv and the page have them all."""
    table = _table(heads, rows)
    for head in FIRST_TO_GO:
        if console.measure(table, options=console.options.update(max_width=WIDE)).maximum <= console.width or head not in heads:
            continue
        kept = [place for place, name in enumerate(heads) if name != head]
        heads, rows = [heads[place] for place in kept], [[row[place] for place in kept] for row in rows]
        table = _table(heads, rows)
    return table


def _pipes(heads: Sequence[str], rows: Sequence[Sequence[Part]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_escape(part.text) for part in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _theirs_pipes(theirs: Theirs) -> str:
    return f"**{_escape(theirs.title)}**\n\n{_pipes(theirs.heads, theirs.rows)}"


def _quotes(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"> {_escape(note)}  " for note in notes)] if notes else []


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
