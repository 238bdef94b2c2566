"""What a benchmark leaves: CSV, plots, one HTML page."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fna.cells import defused
from fna.runner.speed.check import Finding
from fna.runner.speed.floors import Machine
from fna.runner.speed.ops import BASELINE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("sampling", "gather", "landmark block", "landmarks over tokens", "inverse", "tokens over landmarks", "kernels")
DASHES = ("-", "--", ":")  # for as many methods as there are colours, each
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}img{max-width:100%}.FAILS{color:#b00}.wide{overflow-x:auto}"
)


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """One line a row; a row has the columns that it needs, the others are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.6g}" if isinstance(value, float) else defused(value) for key, value in row.items()} for row in rows
        )


def crossover(tokens: Sequence[float], speedup: Sequence[float]) -> float | None:
    """Token count at which the speedup passes 1 for good, log-log between points; None where it does not within the range."""
    import numpy as np

    points = sorted(zip(tokens, speedup, strict=True))
    below = [i for i, (_, value) in enumerate(points) if value < 1]
    if not below:
        return points[0][0] if points else None
    if below[-1] == len(points) - 1:
        return None
    (x0, y0), (x1, y1) = points[below[-1]], points[below[-1] + 1]
    return float(np.exp(np.log(x0) + (np.log(x1) - np.log(x0)) * np.log(y0) / np.log(y0 / y1)))


def plot_tokens(rows: Sequence[Row], file: Path) -> None:
    """Time and speedup over tokens, one line a method; the crossover of FNA with fused attention is marked."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6))
    counts = sorted({row["tokens"] for row in rows})
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        lines.setdefault(row["method"], []).append((row["tokens"], row["ms"], row["speedup"]))
    for place, (name, points) in enumerate(lines.items()):
        tokens, ms, speedup = zip(*sorted(points), strict=True)
        style = {
            "color": f"C{place % 10}",
            "linestyle": DASHES[place // 10 % len(DASHES)],
            "linewidth": 3 if name == "fna" else 1.3,
        }
        left.plot(tokens, ms, **style)
        right.plot(tokens, speedup, label=name, **style)
        at = crossover(tokens, speedup) if name == "fna" else None
        if at is not None:
            right.axvline(at, color="grey", linestyle=":")
            right.text(at, 0.97, f" from {at:.0f} tokens", transform=right.get_xaxis_transform(), fontsize=8, va="top")
    right.axhline(1, color="grey", linewidth=0.8)
    for axes, label in ((left, "milliseconds"), (right, f"times as fast as {BASELINE}")):
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axes.set_xticks(counts, [str(count) for count in counts], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    right.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left", handlelength=3)
    _save(figure, file)


def plot_stages(rows: Sequence[Row], file: Path) -> None:
    """One bar a case: where FNA's time goes, with the floor of each stage as a line across its part."""
    plt = _pyplot()
    cases = list(dict.fromkeys((row["batch"], row["tokens"], row["landmarks"]) for row in rows))
    figure, axes = plt.subplots(figsize=(1.5 + 1.3 * len(cases), 4.2))
    for place, case in enumerate(cases):
        parts = {row["method"]: row for row in rows if (row["batch"], row["tokens"], row["landmarks"]) == case}
        _bar(axes, place, [parts.get(stage) for stage in STAGES], labels=place == 0)
    axes.set_xticks(range(len(cases)), [f"B {b}\nN {n}\nm {m}" for b, n, m in cases])
    axes.set_ylabel("share of the time; hatched: floor")
    axes.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    _save(figure, file)


def _bar(axes: Axes, place: int, parts: Sequence[Row | None], *, labels: bool) -> None:
    total = sum(part["ms"] for part in parts if part)
    base = 0.0
    for colour, (stage, part) in enumerate(zip(STAGES, parts, strict=True)):
        if part is None:
            continue
        height = part["ms"] / total
        axes.bar(place, height, bottom=base, color=f"C{colour}", label=stage if labels else None)
        axes.bar(
            place,
            part.get("floor_ms", 0) / total,
            bottom=base,
            color="none",
            edgecolor="black",
            hatch="////",
            linewidth=0,
            width=0.4,
        )
        base += height


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    _pyplot().close(figure)


def write_page(
    folder: Path, rows: Sequence[Row], findings: Sequence[Finding], machines: dict[str, Machine], about: dict[str, Any]
) -> Path:
    """``bench.csv``, plots and ``bench.html`` in ``folder``; returns the page."""
    write_csv(rows, folder / "bench.csv")
    parts = [f"<!doctype html><meta charset=utf-8><title>fna: speed</title><style>{STYLE}</style><h1>Speed</h1>"]
    parts.append(f"<p>{html.escape('; '.join(f'{key} {value}' for key, value in about.items()))}</p>")
    for name, machine in machines.items():
        parts.append(f"<p>{name}: matrix product {machine.gemm / 1e9:.0f} GFLOP/s, copy {machine.copy / 1e9:.1f} GB/s.</p>")
    if findings:
        items = "".join(f"<li class={line.split()[0]}>{html.escape(line)}" for line in (one.line() for one in findings))
        parts.append(f"<h2>Promises</h2><ul>{items}</ul>")
    for kind, title, plot in (("op", "Operation", plot_tokens), ("stage", "Where the time goes", plot_stages)):
        some = [row for row in rows if row["kind"] == kind]
        if some:
            plot(some, folder / f"{kind}.png")
            parts.append(f'<h2>{title}</h2><img src="{kind}.png" alt="{title}">')
    for kind in dict.fromkeys(row["kind"] for row in rows):
        parts.append(f"<h2>Table: {kind}</h2><div class=wide>{_table([row for row in rows if row['kind'] == kind])}</div>")
    page = folder / "bench.html"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def _table(rows: Sequence[Row]) -> str:
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "kind"]
    head = "".join(f"<th>{key}" for key in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(key, ''))}" for key in columns) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else html.escape(str(value))
