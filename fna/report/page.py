"""One self-contained report.html: of one run, or of a sweep with each run folded below its table and plots."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fna.report.contenders import apart, pairs
from fna.report.day import Section, read_day
from fna.report.fitting import ALWAYS, BELOW, described
from fna.report.frontier import Frontier, frontiers
from fna.report.grid import Grid, numeric_columns
from fna.report.pictures import Album, Landmarked
from fna.report.plots import Plot, plots
from fna.report.results import Run, load, write_text
from fna.report.seeds import merged
from fna.report.sweep import label, varying
from fna.report.verdicts import primary
from fna.report.view import View, study_of, view
from fna.report.words import Part

PICTURES = 4  # of one run within a sweep; a page of one run shows all
SIDE_BY_SIDE = 12
MANY = 30  # pairs of contenders, beyond which they are folded


def write_page(folder: Path | str, runs: Sequence[Run] | None = None) -> Path:
    """Write ``report.html`` into ``folder``: of ``runs``, else of every result.json at or below it; the path of the page."""
    path = Path(folder) / "report.html"
    write_text(path, render(load(folder) if runs is None else runs))
    return path


@dataclass(frozen=True)
class Chapter:
    """A section of the day as the page shows it."""

    section: Section
    views: list[View]
    labels: list[str]
    plots: list[Plot]
    frontiers: list[Frontier]
    beside: list[tuple[str, Landmarked]]
    heads: list[str]  # of the table side by side, with no more than two columns that say which run a row is about
    rows: list[list[Part]]
    numeric: list[bool]
    pairs: list[tuple[Grid, Grid]]  # contenders of one run against each other: by the primary metrics, and by all


def render(runs: Sequence[Run]) -> str:
    """The page as text: nothing in it refers to another file or address."""
    album = Album()
    single = view(runs[0], album) if len(apart(list(runs))) == 1 else None
    day = read_day(runs) if single is None else None
    return _template("page").render(
        title=day.title if day else single.headline if single else [],
        single=single,
        day=day,
        chapters=[_chapter(section, album) for section in day.sections] if day else [],
        album=album,
    )


def _chapter(section: Section, album: Album) -> Chapter:
    keys = varying(section.runs)
    views = [view(run, album, PICTURES) for run in section.runs]
    labels = [label(run, keys) for run in section.runs]
    runs, summary = merged(section.runs), section.summary
    heads, rows = summary.heads, summary.rows
    if summary.own > ALWAYS:
        heads, rows = described(heads, rows, summary.labels, summary.own)
    numeric, beside = numeric_columns(rows), _side_by_side(views, labels)
    return Chapter(section, views, labels, plots(runs), frontiers(runs), beside, heads, rows, numeric, _pairs(section))


def _pairs(section: Section) -> list[tuple[Grid, Grid]]:
    """Every two contenders of a run: by the primary metrics, and by all."""
    found = [(pairs(run.result, primary(run.result)), pairs(run.result)) for run in section.runs if not run.contender]
    return [(chief, whole) for chief, whole in found if chief is not None and whole is not None]


def render_study(run: Run) -> str | None:
    """What the tokens do, as a page of its own: pictures, plots and heat maps. None for a run without such a study."""
    album = Album()
    study = study_of(run, album)
    return None if study is None else _template("study").render(study=study, album=album)


def _side_by_side(views: Sequence[View], labels: Sequence[str]) -> list[tuple[str, Landmarked]]:
    """The same picture under several variants: the first picture of the first run, wherever it comes again."""
    shown = [(name, item) for seen, name in zip(views, labels, strict=True) for item in seen.gallery.landmarks if item.outline]
    same = [(name, item) for name, item in shown if item.picture.id == shown[0][1].picture.id]
    return same[:SIDE_BY_SIDE] if len({item.outline for _, item in same}) > 1 else []


def _template(name: str) -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figures"] = figures
    environment.filters["numbers_but"] = lambda heads, *texts: [place not in texts for place in range(len(heads))]
    environment.globals |= {"below": BELOW, "many": MANY}
    return environment.get_template(f"{name}.html.jinja")


def figures(text: str) -> str:
    """Numbers as they are set in print: a true minus, a multiplication sign."""
    return re.sub(r"(?<=\d)x\b", "×", re.sub(r"(?<![\w-])-(?=\d)", "−", text))
