"""One run as a page shows it: cards, bars and tables, every number already a word and every length already a percentage."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fna.configs import program
from fna.report import formats, notes, table, verdicts, words
from fna.report.decisions import decisions
from fna.report.exhibits import Exhibit, read_exhibits
from fna.report.expected import Expected, Theirs, load_expected
from fna.report.grid import Grid
from fna.report.pictures import Album, Gallery, read_gallery
from fna.report.plots import Plot
from fna.report.results import Result, Run, dig, interval, number, ratio, reference, written_by
from fna.report.segments import Mapped, read_maps
from fna.report.tokens import FILE as TOKENS
from fna.report.tokens import Marked, heat_tables, read_marked, read_tokens, sentence, token_plots
from fna.report.unfinished import noted_words
from fna.report.words import Part

SIDES = ("full", "exact", "variant")
OFF_AXIS = frozenset({"kv_megabytes", "perplexity"})  # metrics that are not in points, as those on the one axis are


@dataclass(frozen=True)
class Bar:
    """An interval on an axis, in percent of its width: where zero lies, where it begins and ends, where the middle is."""

    zero: float
    low: float
    high: float
    middle: float
    mark: str


@dataclass(frozen=True)
class Metric:
    """A row of the metric table."""

    name: str
    full: str
    variant: str
    delta: Part
    span: str
    bar: Bar | None
    primary: bool
    further: list[Part]


@dataclass(frozen=True)
class Segment:
    """A stage of the variant's time; ``place`` picks its colour."""

    name: str
    share: str
    width: float
    place: int


@dataclass(frozen=True)
class TimeBar:
    """Whose time, how much of it an image, its width in percent of the longest, and its stages."""

    name: str
    text: str
    width: float
    stages: list[Segment]


@dataclass(frozen=True)
class Study:
    """What task=tokens found: a sentence, plots, and shaded tables."""

    sentence: str
    plots: list[Plot]
    tables: list[dict[str, Any]]
    marked: list[Marked]


@dataclass(frozen=True)
class View:
    """All that the template says about one run."""

    run: Run
    headline: list[Part]
    compared: list[str]
    caveats: list[str]
    told: list[str]
    sources: list[str]
    subject: str
    called: str  # the approximation, where the others are "full" and "exact"
    metrics: list[Metric]
    further: list[str]  # heads of columns that only some results have; the cells are in the metrics
    theirs: list[Theirs]
    rates: list[tuple[str, str, float]]
    speedup: Part
    speedup_span: str
    unmeasured: str  # why the speedup is no measurement
    reference: str
    amounts: list[tuple[str, str]]  # operations and memory
    costs: list[list[Part]]
    fidelity: list[tuple[str, str]]
    agreement_span: str
    explained: list[str]
    remarks: list[str]
    times: list[TimeBar]
    bound: str  # of any speedup
    decisions: Grid | None
    gallery: Gallery
    maps: list[Mapped]
    exhibits: list[Exhibit]
    study: Study | None
    facts: list[tuple[str, str]]
    command: str
    config: str
    raw: str


def view(run: Run, album: Album, pictures: int | None = None) -> View:
    """Read what lies beside the result (gallery, command, config) and turn all of it into words."""
    result = run.result
    pictures = 0 if run.contender else pictures
    gallery = read_gallery(run.folder, album, pictures)
    speedup = dig(result, "cost", "speedup")
    expected = load_expected([result])
    heads, cells = table.further(result, expected, "metrics")
    return View(
        run=run,
        headline=words.headline(result),
        compared=words.compared(result),
        caveats=[*notes.caveats(result), *expected.problems, *([gallery.problem] if gallery.problem else [])],
        told=notes.told(result),
        sources=expected.sources(),
        subject=formats.name(result.get("attn")),
        called=words.called(result),
        metrics=metric_rows(result, cells),
        further=heads,
        theirs=expected.tables(),
        rates=_rates(result),
        speedup=Part(formats.times(dig(speedup, "median")), words.judge_speed(result)),
        speedup_span=formats.limits(dig(speedup, "ci")),
        unmeasured=words.unmeasured(result),
        reference=reference(result),
        amounts=_amounts(result),
        costs=table.cost(result)[1] if result.get("cost") else [],
        fidelity=_fidelity(result) + _theirs(result, expected),
        agreement_span=formats.limits(dig(result, "fidelity", "agreement_ci"), 1, ""),
        explained=[text for _, text in notes.explained(result)],
        remarks=[*notes.remarks(result), *notes.at_ceiling(result)],
        times=time_bars(result),
        bound=_bound(result),
        decisions=decisions(result),
        gallery=gallery,
        maps=read_maps(run.folder, album, pictures),
        exhibits=read_exhibits(run.folder, album, pictures),
        study=None if run.contender else study_of(run, album, pictures),
        facts=_facts(result),
        command=_command(run),
        config=_config(run),
        raw=json.dumps(result, indent=1, ensure_ascii=False),
    )


def study_of(run: Run, album: Album, pictures: int | None = None) -> Study | None:
    """The study of task=tokens, if the run made one."""
    stale = "files" in run.result and TOKENS not in written_by(run.result)  # of an earlier run in the folder
    found = None if stale else read_tokens(run.folder)
    if found is None:
        return None
    return Study(sentence(found), token_plots(found), heat_tables(found), read_marked(run.folder, album, pictures))


def metric_rows(result: Result, further: Mapping[str, list[Part]]) -> list[Metric]:
    """The metrics with their interval bars, all on one axis that holds zero, and their cells in the further columns."""
    metrics: dict[str, Any] = result.get("metrics") or {}
    values = [0.0]
    for metric in (metric for key, metric in metrics.items() if key not in OFF_AXIS):
        values += interval(dig(metric, "ci")) or ()
        values.append(number(dig(metric, "delta")) or 0.0)
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 1.0
    ends, chief = (low - margin, high + margin), verdicts.primary(result)
    return [_metric(key, metric, ends, key in chief, further[key]) for key, metric in metrics.items()]


def stage_segments(result: Result) -> list[Segment]:
    """Where the variant's time goes, the largest stage first and what no stage names last."""
    stages = {name: number(value) or 0.0 for name, value in (dig(result, "cost", "stages") or {}).items()}
    rest = {name: value for name, value in stages.items() if name.startswith("rest")}
    named = sorted((item for item in stages.items() if item[0] not in rest and item[1] > 0), key=lambda item: -item[1])
    total = sum(stages.values()) if rest else max(1.0, sum(stages.values()))  # medians of shares do not add up to 1 exactly
    segments = [
        Segment(name.replace("_", " "), words.timed(formats.share(value), result), 100 * value / total, place % 8)
        for place, (name, value) in enumerate(named)
    ]
    others = [(name, value) for name, value in rest.items() if value > 0]
    return segments + [Segment(name, words.timed(formats.share(value), result), 100 * value / total, -1) for name, value in others]


def time_bars(result: Result) -> list[TimeBar]:
    """The time of the faster of full and exact above that of the approximation, one scale for both; none without a named stage."""
    whose, stages = reference(result), stage_segments(result)
    if all(stage.place < 0 for stage in stages):
        return []
    full, own = (number(dig(result, "cost", "images_per_second", side)) for side in (whose, "variant"))
    if not stages or not full or not own:
        return [TimeBar(words.called(result), "", 100.0, stages)] if stages else []
    slowest = min(full, own)
    bars, rest = [], words.floor(result)
    if rest is not None and rest <= 1 and not words.is_policy(result):
        parts = (("attention in the swapped blocks", 1 - rest, 0), ("rest of the model", rest, -1))
        shown = [Segment(name, words.timed(formats.share(part), result), 100 * part, place) for name, part, place in parts]
        bars = [TimeBar(whose, _milliseconds(full, result), 100 * slowest / full, shown)]
    return [*bars, TimeBar(words.called(result), _milliseconds(own, result), 100 * slowest / own, stages)]


def _milliseconds(rate: float, result: Result) -> str:
    """The time of an image; where that is no measurement it says so, for brackets alone may be any."""
    doubt = ", no measurement" if words.unmeasured(result) else ""
    return words.timed(f"{formats.rate(1000 / rate)} ms an image{doubt}", result)


def _bound(result: Result) -> str:
    limit = words.ceiling(result)
    bound = (
        "{} as fast, were the swapped attention alone free"
        if words.absorbs(result)
        else "at most {} as fast, were the swapped attention free"
    )
    told = words.timed("" if limit is None else bound.format(formats.times(limit)), result)
    doubt = "figures in brackets are no measurement" if words.unmeasured(result) else ""
    return "; ".join(filter(None, [told, doubt]))


def _metric(key: str, metric: Any, ends: tuple[float, float], chief: bool, further: list[Part]) -> Metric:
    delta, ci = number(dig(metric, "delta")), dig(metric, "ci")
    mark = verdicts.tone(key, metric)

    def at(value: float) -> float:
        return round(100 * (value - ends[0]) / (ends[1] - ends[0]), 2)

    pair = interval(ci)
    bar = None
    if pair and delta is not None and key not in OFF_AXIS:
        bar = Bar(at(0.0), at(pair[0]), at(pair[1]), at(delta), mark)
    full, variant = formats.fixed(dig(metric, "full")), formats.fixed(dig(metric, "variant"))
    change, span = formats.change(delta, ci, 2)
    return Metric(formats.metric_name(key), full, variant, Part(change, mark), span, bar, chief, further)


def _rates(result: Result) -> list[tuple[str, str, float]]:
    """(who, images a second, width of the bar in percent)."""
    values = {side: number(dig(result, "cost", "images_per_second", side)) for side in SIDES}
    top = max((value for value in values.values() if value), default=1.0)
    known = [(side, value) for side, value in values.items() if value is not None]
    return [(side, words.timed(formats.rate(value), result), 100 * value / top) for side, value in known]


def _theirs(result: Result, expected: Expected) -> list[tuple[str, str]]:
    """What others measured of fidelity."""
    sources, cells = table.further(result, expected, "fidelity")
    rows = [(key, source, part.text) for key in cells for source, part in zip(sources, cells[key], strict=True)]
    return [(f"{table.fidelity_name(key, result)}, {source}", text) for key, source, text in rows if text != formats.NOTHING]


def _fidelity(result: Result) -> list[tuple[str, str]]:
    """(what, how much), the agreement first."""
    tree = result.get("fidelity") or {}
    said = [(table.fidelity_name("agreement", result), formats.agreement(tree.get("agreement")))]
    said.append((table.fidelity_name("output_error", result), formats.fixed(tree.get("output_error"), 3)))
    others = [key for key in tree if key not in ("agreement", "output_error") and number(tree[key]) is not None]
    said += [(table.fidelity_name(key, result), formats.fixed(tree[key], 3)) for key in others]
    return said


def _amounts(result: Result) -> list[tuple[str, str]]:
    """(what, how much beside full) of the operations an image and the memory."""
    said = []
    for called, key, unit in (("operations an image", "flops", "FLOP"), ("peak memory", "peak_memory_bytes", "B")):
        part, own = ratio(result, "cost", key), formats.short(dig(result, "cost", key, "variant"), unit)
        said += [] if part is None else [(called, f"{own}, {formats.times(part)} of full")]
    return said


def _facts(result: Result) -> list[tuple[str, str]]:
    """The environment and what else identifies the run, as plain pairs."""
    keys = ("checkpoint", "weights_digest", "hash", "rows", "seconds", "environment")
    return [pair for key in keys if result.get(key) is not None for pair in _pairs(key, result[key])]


def _pairs(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [
            pair for key, inner in value.items() for pair in _pairs(str(key) if name == "environment" else f"{name} {key}", inner)
        ]
    return [(name.removeprefix("versions "), formats.value_of(name, value))]


def _command(run: Run) -> str:
    """The command, as a shell takes it."""
    typed = run.result.get("overrides")
    return f"{program()} {shlex.join(typed)}" if typed else ""


def _config(run: Run) -> str:
    """What Hydra noted of the run, unless a later one that came to nothing noted its own there."""
    typed = run.result.get("overrides")
    if isinstance(typed, list) and noted_words(run.folder) not in (None, typed):
        return ""
    return _text(run, ".hydra/config.yaml")


def _text(run: Run, name: str) -> str:
    try:
        return (run.folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
