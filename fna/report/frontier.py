"""What to use at a given budget: contenders by their error against what they cost, those that another one beats left grey.

Error, not accuracy: a few hundred images cannot tell the top-1 of good methods apart, the relative error of the outputs can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fna.report import formats, words
from fna.report.canvas import svg_axes
from fna.report.grid import Grid
from fna.report.plots import INK, LINE, SOFT, Plot, svg
from fna.report.results import Run, dig, interval, number, ratio
from fna.report.sweep import group, varying
from fna.report.words import Part

BUDGETS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
FEWEST = 4  # contenders, below which a table says it all
SMALLER = "resize"  # the control: the whole model on fewer pixels
DENSE = ("fidelity_patches", "segmentation", "segmentation_zeroshot", "released_head")  # tasks that need every patch
HEADS = ["at most", "by time", "output error", "agreement", "by operations", "output error", "agreement"]


@dataclass(frozen=True)
class Point:
    """A contender: its error with the interval, and its cost as shares of full's; None where that was not measured."""

    name: str
    error: float
    ends: tuple[float, float]
    time: float | None
    operations: float | None
    run: Run


Cost = Callable[[Point], float | None]
COSTS: tuple[tuple[str, Cost], ...] = (("time", lambda point: point.time), ("operations", lambda point: point.operations))


@dataclass(frozen=True)
class Frontier:
    """What the page shows of one image size: its title, the plots, the advice, and a word on the control."""

    title: str
    plots: list[Plot]
    advice: Grid
    control: str


def frontiers(runs: Sequence[Run]) -> list[Frontier]:
    """One for each image size at which the time or the operations of enough contenders were measured."""
    sizes: dict[str, list[Run]] = {}
    for run in runs:
        sizes.setdefault(formats.said("image_size", run.result.get("image_size")), []).append(run)
    found = [_frontier(size if len(sizes) > 1 else "", members) for size, members in sizes.items()]
    return [one for one in found if one.plots]


def _frontier(size: str, runs: Sequence[Run]) -> Frontier:
    """Of the contenders on the most samples: errors on others are not to be held against theirs."""
    every = points(runs)
    most = max((number(point.run.result.get("samples")) or 0 for point in every), default=0)
    found = [point for point in every if (number(point.run.result.get("samples")) or 0) == most]
    on = f"on {most:,g} samples" if len(found) < len(every) else ""
    dense = bool(found) and found[0].run.result.get("task") in DENSE
    title = ["What to use at a given budget", "dense outputs" if dense else "pooled outputs", *filter(None, [size, on])]
    plots = [plot for name, cost in COSTS if (plot := draw(name, found, cost)) is not None]
    return Frontier(", ".join(title), plots, advice(found), control(found))


def points(runs: Sequence[Run]) -> list[Point]:
    """The contenders whose error is known; full attention beside itself is none."""
    whole = [run for run in runs if run.ok and not words.is_idle(run.result)]
    keys = varying(whole)
    return [point for run in whole if (point := _point(run, keys)) is not None]


def _point(run: Run, keys: Sequence[str]) -> Point | None:
    error = number(dig(run.result, "fidelity", "output_error"))
    if error is None or error <= 0:
        return None
    speed = None if words.unmeasured(run.result) else number(dig(run.result, "cost", "speedup", "median"))
    ends = interval(dig(run.result, "fidelity", "output_error_ci")) or (error, error)
    return Point(group(run, keys, ""), error, ends, 1 / speed if speed else None, ratio(run.result, "cost", "flops"), run)


def undominated(found: Sequence[Point], cost: Cost) -> list[Point]:
    """The points than which no other is both cheaper and closer to full, the cheapest first."""
    kept: list[Point] = []
    priced = [(price, point) for point in found if (price := cost(point)) is not None]
    for _, point in sorted(priced, key=lambda pair: (pair[0], pair[1].error)):
        if not kept or point.error < kept[-1].error:
            kept.append(point)
    return kept


def within(found: Sequence[Point], cost: Cost, budget: float) -> Point | None:
    """The point of least error that costs at most ``budget``; None where all cost more."""
    return next((point for point in reversed(undominated(found, cost)) if (cost(point) or 0.0) <= budget), None)


def advice(found: Sequence[Point]) -> Grid:
    """For each budget the contender of least error within it, by time and by operations."""
    rows = []
    for budget in BUDGETS:
        taken = [within(found, cost, budget) for _, cost in COSTS]
        if any(taken):
            rows.append([Part(f"{100 * budget:.0f} %"), *(cell for point in taken for cell in _cells(point))])
    return HEADS, rows


def _cells(point: Point | None) -> list[Part]:
    if point is None:
        return [Part(formats.NOTHING)] * 3
    agreement = formats.agreement(dig(point.run.result, "fidelity", "agreement"))
    return [Part(point.name), Part(formats.fixed(point.error, 3)), Part(agreement)]


def control(found: Sequence[Point]) -> str:
    """Where the smaller input wins, in a sentence; "" where it was not asked."""
    if not any(_is_smaller(point) for point in found):
        return ""
    won = [
        f"at {', '.join(f'{100 * budget:.0f} %' for budget in best)} of the {name}" for name, best in _won(found).items() if best
    ]
    return f"A smaller input wins {' and '.join(won) or 'at no budget'}."


def _won(found: Sequence[Point]) -> dict[str, list[float]]:
    """The budgets of each cost at which the smaller input has the least error."""
    best = {name: {budget: within(found, cost, budget) for budget in BUDGETS} for name, cost in COSTS}
    return {
        name: [budget for budget, point in each.items() if point is not None and _is_smaller(point)] for name, each in best.items()
    }


def _is_smaller(point: Point) -> bool:
    return point.run.result.get("reduce") == SMALLER


def draw(name: str, found: Sequence[Point], cost: Cost) -> Plot | None:
    """Error over one cost, the undominated points joined and numbered; None for fewer points than are worth it."""
    best = undominated(found, cost)
    if sum(cost(point) is not None for point in found) < FEWEST:
        return None
    figure, axes = svg_axes(3.8)
    axes.set_yscale("log")
    axes.axvline(1, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    for point in found:
        if cost(point) is not None:
            _dot(axes, point, cost(point), point in best)
    joined = [(cost(point) or 0.0, point.error) for point in best]
    axes.plot(*zip(*joined, strict=True), color=INK, linewidth=1.2, zorder=2)
    for place, at in enumerate(joined, 1):
        axes.annotate(str(place), at, (0, 7), textcoords="offset points", ha="center", fontsize=8, color=INK)
    axes.set_xlabel(f"{name}, share of full's", color=SOFT)
    axes.set_ylabel("output error", color=SOFT)
    axes.tick_params(which="both", colors=SOFT, labelsize=9, length=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.grid(color=LINE, linewidth=0.7, which="both")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    legend = [(f"{place} {point.name}", -1, False) for place, point in enumerate(best, 1)]
    return Plot(f"Error against {name} (joined: the frontier; grey: beaten by another in both)", svg(figure), legend)


def _dot(axes: Any, point: Point, price: float | None, good: bool) -> None:
    colour, size = (INK, 5.5) if good else (SOFT, 3.5)
    below, above = point.error - point.ends[0], point.ends[1] - point.error
    axes.errorbar(
        [price], [point.error], yerr=[[max(0.0, below)], [max(0.0, above)]], color=colour, marker="o", markersize=size,
        alpha=1.0 if good else 0.45, elinewidth=1, capsize=0, zorder=3 if good else 1,
    )  # fmt: skip
