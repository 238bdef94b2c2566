"""Plots over a sweep, as SVG whose colours are the page's own, so that they follow its light and dark.

matplotlib draws with stand-in colours, which are then replaced by CSS variables. It is imported when a plot is drawn: a report of
one run needs none.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fna.report import formats, verdicts, words
from fna.report.canvas import svg_axes
from fna.report.crossover import crossovers, sides
from fna.report.expected import load_expected
from fna.report.results import IDENTITY, Run, dig, interval, number, setting
from fna.report.sweep import SIZE, group, varying

INK, SOFT, LINE = "#010101", "#020202", "#030303"
LINES = [f"#0{i}0{i}0f" for i in range(8)]
COLOURS = {INK: "--ink", SOFT: "--soft", LINE: "--line"} | {colour: f"--c{i}" for i, colour in enumerate(LINES)}


class Value(NamedTuple):
    """A number with its interval, if it has one."""

    middle: float | None
    ends: tuple[float, float] | None = None


Reader = Callable[[Run], Value]


@dataclass(frozen=True)
class Axes:
    """What a plot shows: ``x`` and ``y`` of each run, their words, the level of "no change" and the key that runs along a line."""

    x: Reader
    y: Reader
    x_label: str
    y_label: str
    along: str
    level: float | None = 0.0
    log: bool = False
    rises: bool = False  # over powers of ten
    tags: bool = False
    less: bool = False  # is better


@dataclass(frozen=True)
class Plot:
    """A drawn plot; ``legend`` names its lines: (name, place of the colour, -1 for grey, whether the line is dashed)."""

    title: str
    svg: str
    legend: list[tuple[str, int, bool]]


def plots(runs: Sequence[Run]) -> list[Plot]:
    """Every plot for which the whole runs differ in the right things."""
    whole = [run for run in runs if run.ok]
    keys = varying(whole)
    drawn = []
    for metric in dict.fromkeys(key for run in whole for key in verdicts.primary(run.result)):
        called = formats.metric_name(metric)
        drawn.append(draw(f"{called}: what it costs, what it buys (broad: the frontier)", whole, keys, quality_cost(metric)))
        drawn.append(draw(f"{called} over the cache (broad: the frontier)", whole, keys, over_cache(metric)))
        if len({run.result.get("landmarks") for run in whole} - {None}) > 1:  # None: a method that has none
            drawn.append(draw(f"{called} over {_amount(whole)}", whole, keys, over_landmarks(metric, _amount(whole))))
        if "mask_start" in keys:
            drawn.append(draw(f"{called} over the first masked block", whole, keys, over_start(metric)))
        options = [key for key in keys if key not in IDENTITY and all(_field(key)(run).middle is not None for run in whole)]
        drawn += [draw(f"{called} over {key}", whole, keys, over_option(metric, key)) for key in options]
    drawn += _theirs(whole)
    if set(SIZE) & set(keys):
        drawn += _over_tokens(whole, [key for key in keys if key not in SIZE])
    return [plot for plot in drawn if plot is not None]


def _over_tokens(runs: Sequence[Run], keys: Sequence[str]) -> list[Plot | None]:
    """Speed, time, memory and error over tokens; a line for full attention where it is not the measure."""
    beside = [*keys, *(["attn"] if "attn" not in keys else [])]
    return [
        draw("Where it begins to pay (broad: the interval)", runs, keys, CROSSOVER),
        draw("Time of an image over tokens", sides(runs), beside, TIME),
        draw("Peak memory over tokens", sides(runs), beside, MEMORY),
        draw("Output error over tokens", runs, keys, ERROR),
    ]


def _theirs(runs: Sequence[Run]) -> list[Plot | None]:
    """What others measured over the first masked block or over landmarks, where it does not stand beside ours."""
    expected = load_expected([run.result for run in runs])
    theirs = expected.runs()
    keys = varying(theirs)
    whose = ", ".join(dict.fromkeys(f"{figure.source}, {figure.model} on {figure.dataset}" for figure in expected.apart))
    drawn = []
    for metric in dict.fromkeys(figure.metric for figure in expected.apart):
        title = f"{formats.metric_name(metric)}: {whose}"
        drawn += [draw(title, theirs, keys, over_start(metric))] if "mask_start" in keys else []
        drawn += [draw(title, theirs, keys, over_landmarks(metric, _amount(runs)))] if "landmarks" in keys else []
    return drawn


def quality_cost(metric: str) -> Axes:
    """The difference of a metric against the speedup, a line for each method."""
    return Axes(_speedup, _delta(metric), "speedup (x)", "points against full", "landmarks", tags=True)


def over_cache(metric: str) -> Axes:
    """The difference of a metric over how much smaller the KV cache of a prompt is, a line for each policy."""
    return Axes(_cache, _delta(metric), "times smaller a KV cache than full's", "points against full", "landmarks", tags=True)


def over_landmarks(metric: str, amount: str) -> Axes:
    """The difference of a metric over the number of landmarks, or of what else ``amount`` says that the number counts."""
    return Axes(_field("landmarks"), _delta(metric), amount, "points against full", "landmarks", log=True)


def _amount(runs: Sequence[Run]) -> str:
    """What ``landmarks`` counts: of attn=low_rank the rank."""
    return "rank" if {run.result.get("attn") for run in runs} == {"low_rank"} else "landmarks"


def over_start(metric: str) -> Axes:
    """The difference of a metric over the first block in which tokens are masked."""
    return Axes(_field("mask_start"), _delta(metric), "first masked block", "points against full", "mask_start")


def over_option(metric: str, key: str) -> Axes:
    """The difference of a metric over a number that was typed: ``attn.steps``, ``batch_size``."""
    return Axes(_field(key), _delta(metric), key, "points against full", key)


def draw(title: str, runs: Sequence[Run], keys: Sequence[str], plot: Axes) -> Plot | None:
    """The plot; None where fewer than two runs have both values."""
    lines: dict[str, list[tuple[Value, Value, Run]]] = {}
    for run in runs:
        x, y = plot.x(run), plot.y(run)
        if x.middle is not None and y.middle is not None:
            lines.setdefault(group(run, keys, plot.along), []).append((x, y, run))
    for points in lines.values():
        points.sort(key=lambda point: _field(plot.along)(point[2]).middle or 0.0)
    if sum(map(len, lines.values())) < 2:
        return None
    figure, axes = _figure(plot)
    paths = [[(x, y) for x, y, _ in points] for points in lines.values()]
    best = frontier([(x.middle or 0.0, y.middle or 0.0) for path in paths for x, y in path]) if plot.tags else []
    named = _named(dict(zip(lines, paths, strict=True)), best, plot.less)
    for name, path in zip(lines, paths, strict=True):
        if name not in named:
            _line(axes, SOFT, path, 0, faint=0.3)
    for place, name in enumerate(named):
        path = [(x, y) for x, y, _ in lines[name]]
        _line(axes, LINES[place], path, above=[[(x, y) for x, y, _ in lines[other]] for other in named[place + 1 :]].count(path))
    if plot.tags:
        axes.plot(*zip(*best, strict=True), color=SOFT, linewidth=7, alpha=0.25, zorder=0.5, solid_capstyle="round")
    if plot is CROSSOVER:
        _mark_crossovers(axes, runs, keys, ends=[x.middle or 0.0 for path in paths for x, _ in path])
    ticks = sorted({x.middle or 0.0 for path in paths for x, _ in path})
    if plot.log:
        axes.set_xticks(ticks, _labels(ticks))
        axes.xaxis.minorticks_off()
    elif all(tick == int(tick) for tick in ticks):
        axes.locator_params("x", integer=True)
    if plot.tags:
        _tag(figure, axes, [point for points in lines.values() if len(points) > 1 for point in points], plot.along)
    legend = [(name, place, False) for place, name in enumerate(named)]
    legend += [(f"{len(lines) - len(named)} others, in the table above", -1, False)] if len(named) < len(lines) else []
    return Plot(title, svg(figure), legend if len(lines) > 1 else [])


def _named(paths: Mapping[str, Sequence[tuple[Value, Value]]], best: Sequence[tuple[float, float]], less: bool) -> list[str]:
    """The lines that get a colour and a name: all, or of more than there are colours those on the frontier and the best."""

    def rank(name: str) -> tuple[int, float]:
        points = [(x.middle or 0.0, y.middle or 0.0) for x, y in paths[name]]
        return sum(point in best for point in points), max(-y if less else y for _, y in points)

    if len(paths) <= len(LINES):
        return list(paths)
    chosen = sorted(paths, key=rank, reverse=True)[: len(LINES) - 1]
    return [name for name in paths if name in chosen]


def _labels(ticks: Sequence[float]) -> list[str]:
    """A label for each tick of a logarithmic axis, the largest first; "" where it would lie on the one after it."""
    gap, above, found = (math.log(ticks[-1]) - math.log(ticks[0])) / 11, math.inf, []
    for tick in reversed(ticks):
        room = above - math.log(tick) >= gap
        above = math.log(tick) if room else above
        found.append(f"{tick:g}" if room else "")
    return found[::-1]


def _mark_crossovers(axes: Any, runs: Sequence[Run], keys: Sequence[str], ends: Sequence[float]) -> None:
    """A broad line along the level of "as fast" from the low to the high end of each crossover, as far as tokens were tried."""
    for found in crossovers(runs, lambda run: group(run, keys, "tokens")).values():
        low, high = max(found.low, min(ends)), min(found.high, max(ends))
        if low < high:
            axes.plot([low, high], [1, 1], color=SOFT, linewidth=7, alpha=0.25, zorder=0.5, solid_capstyle="butt")


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (speed, quality) than which no other is both faster and better, the fastest first."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def _tag(figure: Any, axes: Any, points: Sequence[tuple[Value, Value, Run]], key: str) -> None:
    """Write ``key`` beside the points, on the side where there is room; where there is none, nothing."""
    figure.draw_without_rendering()  # the layout, and so the place of each point, stands only now
    places = axes.transData.transform([(x.middle, y.middle) for x, y, _ in points]) * 72 / figure.dpi
    taken = [(across - 3, up - 3, across + 3, up + 3) for across, up in places]
    for (x, y, run), (across, up) in zip(points, places, strict=True):
        text = str(run.result.get(key))
        width, height = 5.2 * len(text), 8.0
        for right, above in ((5, 4), (5, -12), (-5 - width, 4), (-5 - width, -12)):
            box = (across + right, up + above, across + right + width, up + above + height)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                at = (x.middle, y.middle)
                axes.annotate(text, at, (right, above), textcoords="offset points", color=SOFT, fontsize=8)
                taken.append(box)
                break


def _line(axes: Any, colour: str, points: Sequence[tuple[Value, Value]], above: int, faint: float = 1.0) -> None:
    """Draw a line; wider where so many equal ones will lie above it, so that none is hidden."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    drawn = axes.errorbar(
        [x.middle for x in xs], [y.middle for y in ys], xerr=_ends(xs), yerr=_ends(ys),
        color=colour, marker="o", markersize=5 + 4 * above, linewidth=1.6 + 3 * above, elinewidth=1.2, capsize=0, alpha=faint,
    )  # fmt: skip
    for bars in drawn.lines[2]:
        bars.set_alpha(0.4 * faint)


def _ends(values: Sequence[Value]) -> list[list[float]] | None:
    """Lengths of error bars below and above; None where no value has an interval."""
    if not any(value.ends for value in values):
        return None
    pairs = [value.ends or (value.middle or 0.0,) * 2 for value in values]
    middles = [value.middle or 0.0 for value in values]
    return [
        [max(0.0, middle - low) for middle, (low, _) in zip(middles, pairs, strict=True)],
        [max(0.0, high - middle) for middle, (_, high) in zip(middles, pairs, strict=True)],
    ]


def _figure(plot: Axes) -> tuple[Any, Any]:
    figure, axes = svg_axes(3.4)
    if plot.level is not None:
        axes.axhline(plot.level, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    if plot.x is _speedup:
        axes.axvline(1, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    if plot.log:
        axes.set_xscale("log", base=2)
    if plot.rises:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(plot.x_label, color=SOFT)
    axes.set_ylabel(plot.y_label, color=SOFT)
    axes.tick_params(colors=SOFT, labelsize=9, length=0)
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return figure, axes


def svg(figure: Any) -> str:
    """The figure as an element for a page: no document head, no addresses, ids of its own, colours as variables."""
    import matplotlib

    buffer = io.StringIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fna"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    svg = buffer.getvalue()
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg[svg.index("<svg") :])
    svg = re.sub(r"font: ([^']*?)'[^;\"]*", r"font: \1inherit", svg)
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{mark}-", svg)
    return re.sub("|".join(COLOURS), lambda found: f"var({COLOURS[found[0]]})", svg)


def _speedup(run: Run) -> Value:
    if words.unmeasured(run.result):
        return Value(None)
    tree = dig(run.result, "cost", "speedup")
    return Value(number(dig(tree, "median")), interval(dig(tree, "ci")))


def _seconds(run: Run) -> Value:
    rate = None if words.unmeasured(run.result) else number(dig(run.result, "cost", "images_per_second", "variant"))
    return Value(1 / rate if rate else None)


def _megabytes(run: Run) -> Value:
    peak = number(dig(run.result, "cost", "peak_memory_bytes", "variant"))
    return Value(peak / 1e6 if peak else None)


def _error(run: Run) -> Value:
    found = dig(run.result, "fidelity")
    return Value(number(dig(found, "output_error")), interval(dig(found, "output_error_ci")))


def _cache(run: Run) -> Value:
    tree = dig(run.result, "metrics", "kv_megabytes")
    full, variant = number(dig(tree, "full")), number(dig(tree, "variant"))
    return Value(full / variant if full and variant else None)


def _delta(metric: str) -> Reader:
    def read(run: Run) -> Value:
        tree = dig(run.result, "metrics", metric)
        return Value(number(dig(tree, "delta")), interval(dig(tree, "ci")))

    return read


def _field(key: str) -> Reader:
    return lambda run: Value(number(setting(run.result, key)))


CROSSOVER = Axes(_field("tokens"), _speedup, "tokens", "speedup (x)", "tokens", level=1.0, log=True)
TIME = Axes(_field("tokens"), _seconds, "tokens", "seconds an image", "tokens", level=None, log=True, rises=True, less=True)
MEMORY = Axes(_field("tokens"), _megabytes, "tokens", "MB at the peak", "tokens", level=None, log=True, rises=True, less=True)
ERROR = Axes(_field("tokens"), _error, "tokens", "output error", "tokens", log=True, less=True)
