"""Tables for the terminal and for table.md: one result in full, or a sweep with one line a result."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fna.report import words
from fna.report.results import Result, Run, dig, load, number, ratio, reference, write_atomically
from fna.report.sweep import Summary, numeric_columns, summarise
from fna.report.words import Part

WIDE = 400
FIRST_TO_GO = ("operations", "sampling", "against", "output error", "agreement")
STYLES = {"good": "green", "bad": "red", "even": "bold", "": ""}
SIDES = ("full", "exact", "variant")
Grid = tuple[list[str], list[list[Part]]]


def show(result: Result, console: Console | None = None) -> None:
    """Print one result: what was compared, the metrics in pairs, fidelity and cost."""
    console = console or _console()
    _lines(console, words.headline(result), words.compared(result))
    for note in words.caveats(result):
        console.print(Text(f"! {note}", style="yellow"), soft_wrap=True)
    if result.get("status") == "ok":
        for heads, rows in _grids(result):
            console.print(_table(heads, rows))


def show_sweep(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print a sweep: one line a result, the failures last."""
    console = console or _console()
    summary = summarise(runs)
    _lines(console, summary.title, [f"{key} {value}" for key, value in summary.common])
    for note in summary.notes:
        console.print(Text(f"! {note}", style="yellow"), soft_wrap=True)
    if summary.rows:
        console.print(_fitting(console, summary.heads, summary.rows))
    for place, why in summary.failures:
        console.print(Text(f"failed: {place}: {why}", style="red"), soft_wrap=True)


def write_markdown(folder: Path | str) -> Path:
    """Write ``table.md`` into ``folder``: the result at it, or the sweep below it."""
    runs = load(folder)
    path = Path(folder) / "table.md"
    write_atomically(path, markdown(runs[0].result) if len(runs) == 1 else sweep_markdown(runs))
    return path


def markdown(result: Result) -> str:
    """What `show` prints, as Markdown."""
    grids = [_pipes(*grid) for grid in _grids(result)] if result.get("status") == "ok" else []
    lines = [f"**{_escape(words.plain(words.headline(result)))}**", _escape(" · ".join(words.compared(result)))]
    return "\n\n".join([*lines, *_quotes(words.caveats(result)), *grids]) + "\n"


def sweep_markdown(runs: Sequence[Run]) -> str:
    """What `show_sweep` prints, as Markdown."""
    summary: Summary = summarise(runs)
    lines = [f"**{_escape(words.plain(summary.title))}**", _escape(" · ".join(f"{key} {value}" for key, value in summary.common))]
    grid = [_pipes(summary.heads, summary.rows)] if summary.rows else []
    failed = ["\n".join(f"- failed: {_escape(f'{place}: {why}')}" for place, why in summary.failures)] if summary.failures else []
    return "\n\n".join([*lines, *_quotes(summary.notes), *grid, *failed]) + "\n"


def quality(result: Result) -> Grid:
    """Metrics of full and variant with their paired difference, then how near the outputs are."""
    mark = " (random weights)" if words.is_random(result) else " !" if words.is_doubtful(result) else ""
    rows = []
    for key, metric in (result.get("metrics") or {}).items():
        delta, ci = dig(metric, "delta"), dig(metric, "ci")
        tone = words.tone(key, metric, "")
        values = [Part(words.fixed(dig(metric, side))) for side in ("full", "variant")]
        rows.append([Part(words.metric_name(key) + mark), *values, Part(words.signed(delta, 2), tone), Part(words.span(ci, 2))])
    for key, value in (result.get("fidelity") or {}).items():
        if number(value) is not None:
            digits = 2 if key == "agreement" else 4
            ends = words.limits(dig(result, "fidelity", f"{key}_ci"), digits, "")
            text = words.fixed(value, digits, " %" if key == "agreement" else "")
            rows.append([Part(fidelity_name(key)), Part(""), Part(text), Part(""), Part(ends)])
    return ["quality", "full", "variant", "delta", "95 % interval"], rows


def cost(result: Result) -> Grid:
    """Rates of full, exact and variant, the speedup, operations, memory and the share of sampling."""
    tree, limit = result.get("cost"), words.ceiling(result)
    against = f"{words.limits(dig(tree, 'speedup', 'ci'))} against {reference(result)}"
    rows = [_only("speedup", words.times(dig(tree, "speedup", "median")), against, words.judge_speed(result))]
    rows.append([Part("images a second"), *(Part(words.rate(dig(tree, "images_per_second", side))) for side in SIDES), Part("")])
    for called, key, unit in (("operations", "flops", "FLOP"), ("peak memory", "peak_memory_bytes", "B")):
        part = ratio(result, "cost", key)
        sides = [Part(words.short(dig(tree, key, side), unit)) for side in SIDES]
        rows.append([Part(called), *sides, Part(f"{words.times(part)} of full" if part is not None else "")])
    rows.append(_only("sampling", words.share(dig(tree, "sampling_share")), "of the variant's time"))
    if limit is not None:
        rows.append(_only("limit", words.times(limit), "if the swapped attention cost nothing"))
    return ["cost", *SIDES, ""], rows


def fidelity_name(key: str) -> str:
    """How a measure of fidelity is called in a table."""
    return {"agreement": "agreement with full", "output_error": "relative output error"}.get(key, key.replace("_", " "))


def _grids(result: Result) -> list[Grid]:
    return [quality(result), cost(result)] if result.get("cost") else [quality(result)]


def _only(called: str, value: str, remark: str, mark: str = "") -> list[Part]:
    """A row that has a value for the variant alone."""
    return [Part(called), Part(""), Part(""), Part(value, mark), Part(remark)]


def _console() -> Console:
    """The terminal; where the output goes into a file or a pipe, wide enough that no cell is broken."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=WIDE)


def _lines(console: Console, title: Sequence[Part], facts: Sequence[str]) -> None:
    console.print(_text(title), style="bold", soft_wrap=True)
    console.print(Text(" · ".join(facts), style="dim"), soft_wrap=True)


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


def _quotes(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"> {_escape(note)}  " for note in notes)] if notes else []


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
