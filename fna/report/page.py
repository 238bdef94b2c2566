"""One self-contained report.html: of one run, or of a sweep with each run folded below its table and plots."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fna.report.pictures import Album, Landmarked
from fna.report.plots import plots
from fna.report.results import Run, load, write_text
from fna.report.sweep import label, summarise, varying
from fna.report.view import View, study_of, view

PICTURES = 4  # of one run within a sweep; a page of one run shows all
SIDE_BY_SIDE = 12


def write_page(folder: Path | str, runs: Sequence[Run] | None = None) -> Path:
    """Write ``report.html`` into ``folder``: of ``runs``, else of every result.json at or below it; the path of the page."""
    path = Path(folder) / "report.html"
    write_text(path, render(load(folder) if runs is None else runs))
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as text: nothing in it refers to another file or address."""
    album = Album()
    if len(runs) == 1:
        views, summary = [view(runs[0], album)], None
    else:
        views, summary = [view(run, album, PICTURES) for run in runs if run.ok], summarise(runs)
    keys = varying([run for run in runs if run.ok])
    labels = [label(shown.run, keys) for shown in views]
    return _template("page").render(
        title=summary.title if summary else views[0].headline,
        summary=summary,
        views=views,
        labels=labels,
        plots=plots(runs),
        beside=_side_by_side(views, labels) if summary else [],
        album=album,
    )


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
    return environment.get_template(f"{name}.html.jinja")


def figures(text: str) -> str:
    """Numbers as they are set in print: a true minus, a multiplication sign."""
    return re.sub(r"(?<=\d)x\b", "×", re.sub(r"(?<![\w-])-(?=\d)", "−", text))
