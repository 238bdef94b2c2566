"""The figures of ``task=tokens``: norms by category, where the tokens sit, suppression, rules against each other, rank curves.

Reads ``tokens.json`` beside a result; knows nothing of how its numbers came about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fna.report.canvas import svg_axes
from fna.report.pictures import Album, Picture, grid_cells
from fna.report.plots import INK, LINES, SOFT, Plot, svg

FILE = "tokens.json"
PLACES = {"cls": 2, "massive": 1, "artifact": 3, "normal": 0}  # colours


def read_tokens(folder: Path) -> dict[str, Any] | None:
    """What the study left in a run folder; None if there is none or it cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "norms" in found else None


@dataclass(frozen=True)
class Marked:
    """A picture with its massive and artifact tokens as SVG paths on a grid of unit squares."""

    picture: Picture
    key: str
    rows: int
    columns: int
    massive: str
    artifact: str
    caption: str


def read_marked(folder: Path, album: Album, limit: int | None = None) -> list[Marked]:
    """The section "tokens" of ``gallery.json``: images with their tokens marked; nothing where it cannot be read."""
    try:
        items = json.loads((folder / "gallery.json").read_text(encoding="utf-8")).get("tokens", [])[:limit]
        found = [_marked(folder, album, item) for item in items]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
    return [item for item in found if item is not None]


def _marked(folder: Path, album: Album, item: dict[str, Any]) -> Marked | None:
    """None where the picture is missing or has no grid to draw on."""
    picture = album.add(folder, item["image"])
    if picture is None or not item.get("grid"):
        return None
    rows, columns = item["grid"]
    paths = []
    for name in ("massive", "artifact"):
        cells = grid_cells(item.get(name) or [], int(item.get("prefix", 0)), rows, columns)
        paths.append("".join(f"M{column} {row}h1v1h-1z" for row, column in cells))
    caption = f"{len(item.get('massive') or [])} massive, {len(item.get('artifact') or [])} artifact of {rows * columns:,} patches"
    return Marked(picture, str(item.get("key", "")), rows, columns, paths[0], paths[1], caption)


def sentence(study: dict[str, Any]) -> str:
    """What was found, in words; that nothing was found is said as plainly."""
    counts, images, detect = study["counts"], study["images"], study["detect"]
    if counts["massive"] < 0.05 and counts["artifact"] < 0.05:
        return f"No massive and no artifact token in {images} images: nothing here for a mask to hide (judged in block {detect})."
    largest = max((value for value in study["norms"]["leaving"]["massive"] if value is not None), default=None)
    normal = [value for value in study["norms"]["leaving"]["normal"] if value is not None]
    grown = (
        f" They grow to a norm of {largest:.0f}; normal tokens stay at {min(normal):.0f} to {max(normal):.0f}." if largest else ""
    )
    return (
        f"{counts['massive']:.1f} massive and {counts['artifact']:.1f} artifact tokens an image, on {images} images, found in "
        f"block {detect}.{grown}"
    )


def token_plots(study: dict[str, Any]) -> list[Plot]:
    """Every figure for which the study has numbers."""
    return [_norms(study), _growth(study), *_ranks(study), *_iterative(study)]


def _axes(x: str, y: str) -> tuple[Any, Any]:
    figure, axes = svg_axes(3.4)
    axes.locator_params("x", integer=True)  # blocks, ranks and counts
    axes.set_xlabel(x, color=SOFT)
    axes.set_ylabel(y, color=SOFT)
    axes.tick_params(colors=SOFT, labelsize=9, length=0)
    axes.grid(color="#030303", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return figure, axes


def _line(axes: Any, place: int, ys: Sequence[float | None], xs: Sequence[float] | None = None, style: str = "-") -> None:
    points = [(x, y) for x, y in zip(xs or range(len(ys)), ys, strict=True) if y is not None]
    axes.plot(*zip(*points, strict=True), color=LINES[place], linestyle=style, marker="o", markersize=4, linewidth=1.6)


def _norms(study: dict[str, Any]) -> Plot:
    figure, axes = _axes("block", "norm of the residual stream")
    axes.set_yscale("log")
    legend = []
    for name in study["names"]:
        values = study["norms"]["leaving"][name]
        if any(value is not None for value in values):
            _line(axes, PLACES[name], values)
            legend.append((name, PLACES[name], False))
    axes.axvspan(study["first"], study["detect"], color=INK, alpha=0.05)
    return Plot("Norm after each block, by category (shaded: where artifacts are sought)", svg(figure), legend)


def _growth(study: dict[str, Any]) -> Plot:
    figure, axes = _axes("block", "norm of the residual stream")
    axes.set_yscale("log")
    legend = []
    growth = study["growth"]
    for name in ("massive", "artifact", "normal"):
        values = study["norms"]["leaving"][name]
        if any(value is not None for value in values):
            _line(axes, PLACES[name], values)
            _line(axes, PLACES[name], growth["without"][name], style="--")
            _line(axes, PLACES[name], growth["without_bias"][name], style=":")
            legend += [(name, PLACES[name], False), (f"{name}, no attention (dotted: nor its output bias)", PLACES[name], True)]
    return Plot(f"Without any attention from block {growth['start']} on", svg(figure), legend)


def _ranks(study: dict[str, Any]) -> list[Plot]:
    """The error over the rank, and how near the answers are."""
    measures = (
        ("error", "output error", "Attention cut to low rank after the block of detection: how far off"),
        ("agreement", "same class, percent of images", "Attention cut to low rank: answers kept"),
        ("cosine", "cosine to exact attention", "Attention cut to low rank: nearness of the embeddings"),
    )
    return [_rank_curves(study["ranks"], *names) for names in measures if any(names[0] in point for point in study["ranks"])]


def _rank_curves(points: Sequence[dict[str, Any]], key: str, label: str, title: str) -> Plot:
    figure, axes = _axes("rank of each piece", label)
    for partition, place in ((False, 0), (True, 1)):
        curve = [point for point in points if point["partition"] is partition]
        _line(axes, place, [point[key] for point in curve], [point["rank"] for point in curve])
    ranks = sorted({point["rank"] for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    return Plot(title, svg(figure), [("pieces CLS, patches", 0, False), ("pieces by category", 1, False)])


def _iterative(study: dict[str, Any]) -> list[Plot]:
    kinds = [("mask", "type1"), ("sink", "type1"), ("sink", "type2")]
    figure, axes = _axes("sinks taken away, strongest first", "norm of the first that is left")
    legend = []
    for place, kind in enumerate(kinds):
        curve = [point for point in study["iterative"] if (point["mode"], point["pattern"]) == kind]
        ys = [next(iter(point["norms"][point["removed"] :]), None) for point in curve]
        if sum(y is not None for y in ys) > 1:
            _line(axes, place, ys, [point["removed"] for point in curve])
            legend.append((f"{kind[0]}, type {'I' * int(kind[1][-1])}", place, False))
    axes.set_xticks(sorted({point["removed"] for point in study["iterative"]}))
    return [Plot("Taking sinks away one after another", svg(figure), legend)] if legend else []


def heat_tables(study: dict[str, Any]) -> list[dict[str, Any]]:
    """Tables with a shade: suppression and attention in the block where the tokens grow, rules against each other.

    Each has ``title``, ``heads`` and ``rows`` of (name, cells), a cell being (text, shade from -1 to 1).
    """
    block = max(0, study["detect"] - 1)
    names = study["names"]
    tables = []
    for key, title in (
        ("suppression", f"Suppression in block {block}: what the column writes along the row's own direction"),
        ("mass", f"Attention in block {block}: share that a row gives to all tokens of the column"),
    ):
        pairs = study[key][block]
        top = max((abs(value) for row in pairs for value in row if value is not None), default=0) or 1
        rows = [(name, [_cell(value, top) for value in row]) for name, row in zip(names, pairs, strict=True)]
        tables.append({"title": title, "heads": names, "rows": rows})
    overlap = study["overlap"]
    rows = [
        (rule, [(f"{count:.2f}", 0.0), *(_cell(value, 1.0) for value in row)])
        for rule, count, row in zip(overlap["rules"], overlap["per_image"], overlap["jaccard"], strict=True)
    ]
    return [
        *tables,
        {"title": "Rules against each other: tokens an image, Jaccard index", "heads": ["found", *overlap["rules"]], "rows": rows},
    ]


def _cell(value: float | None, top: float) -> tuple[str, float]:
    return ("–", 0.0) if value is None else (f"{value:.2f}", value / top)
