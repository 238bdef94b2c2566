"""What others measured, beside what we measured: the ``expected.csv`` of an experiment.

One line a figure: ``source`` (whose it is), ``model``, ``dataset``, any keys that a result.json has too, ``metric``, ``full`` and,
where there was a variant, ``variant``. A result names its file under "expected"; a relative path starts where ``conf/`` lies.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fna.configs import CONF
from fna.errors import UserError
from fna.report import words
from fna.report.grid import fold, numeric_columns
from fna.report.results import Result, Run
from fna.report.words import Part

FIXED = ("source", "model", "dataset", "metric", "full", "variant", "tolerance")
BLOCKS = frozenset({"mask_start", "layers"})  # numbers of blocks, which mean the same in one model only


@dataclass(frozen=True)
class Figure:
    """A metric that ``source`` measured with ``model`` on ``dataset``; ``keys`` say with which settings."""

    source: str
    model: str
    dataset: str
    keys: tuple[tuple[str, str], ...]
    metric: str
    full: float
    variant: float | None

    @property
    def world(self) -> tuple[str, str]:
        """The model and the data set."""
        return self.model, self.dataset

    @property
    def delta(self) -> float | None:
        """The difference to full attention, in the metric's own unit."""
        return None if self.variant is None else self.variant - self.full

    def text(self) -> str:
        """``34.10 (-1.23)``, the difference to full in brackets; where only full was measured, that."""
        return f"{words.fixed(self.full)} full" if self.variant is None else f"{self.variant:,.2f} ({words.signed(self.delta, 2)})"

    def told(self, results: Iterable[Result]) -> str:
        """Whose figures these are, and in words where model or data are not those of our results."""
        own = f"{self.source}: {self.model} on {self.dataset}"
        ours = sorted({f"{result.get('model')} on {result.get('dataset')}" for result in results if _world(result) != self.world})
        return f"{own}; ours: {', '.join(ours)}. Compare the order, not the size" if ours else own


@dataclass(frozen=True)
class Theirs:
    """Figures to which no run of ours belongs, as a table of their own."""

    title: str
    heads: list[str]
    rows: list[list[Part]]

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers."""
        return numeric_columns(self.rows)


def read_figures(path: str) -> list[Figure]:
    """The figures in a file. Raises `UserError` where it is not there or not such a file."""
    try:
        with Path(CONF.parent, path).open(encoding="utf-8", newline="") as file:
            return [_figure(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise UserError(f"expected={path}: cannot be read ({error.strerror}).") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"expected={path}: not a table of {', '.join(FIXED[:5])} ({error}).") from None


def _figure(row: dict[str, str]) -> Figure:
    keys = tuple((key, value) for key, value in row.items() if key not in FIXED)
    variant = row.get("variant")
    return Figure(
        row["source"], row["model"], row["dataset"], keys, row["metric"], float(row["full"]), float(variant) if variant else None
    )


@dataclass(frozen=True)
class Expected:
    """The figures that ``results`` name, each once; ``problems`` says in a sentence which file cannot be used."""

    results: Sequence[Result]
    figures: Sequence[Figure]
    problems: Sequence[str]

    def beside(self, result: Result) -> dict[str, Figure]:
        """The figure that belongs beside each metric of a result: metric -> figure, with the same settings.

        Of the same model and data set where there are any; else of the one other pair that there is, unless block numbers tell its
        figures apart.
        """
        pool = [figure for figure in self.figures if figure.world == _world(result)]
        if not pool and len({figure.world for figure in self.figures}) == 1:
            pool = [figure for figure in self.figures if not BLOCKS & {key for key, _ in figure.keys}]
        metrics = result.get("metrics") or {}
        return {
            figure.metric: figure
            for figure in pool
            if figure.metric in metrics and all(_same(key, result.get(key), text) for key, text in figure.keys)
        }

    @property
    def apart(self) -> Sequence[Figure]:
        """The figures, if none of them stands beside any of our results; else none."""
        return () if any(map(self.beside, self.results)) else self.figures

    def notes(self) -> list[str]:
        """Whose the figures beside ours are, said once for each source; and what could not be read."""
        used = [figure for result in self.results for figure in self.beside(result).values()]
        return [*self.problems, *dict.fromkeys(figure.told(self.results) for figure in used)]

    def tables(self) -> list[Theirs]:
        """A table of the figures apart for each source, model, data set and kind of setting."""
        groups: dict[Any, list[Figure]] = {}
        for figure in self.apart:
            groups.setdefault((figure.source, figure.world, tuple(dict(figure.keys))), []).append(figure)
        return [_table(group, self.results) for group in groups.values()]

    def runs(self) -> list[Run]:
        """The figures apart as runs, for a plot beside ours: settings, and differences to full without an interval."""
        made: dict[tuple[tuple[str, str], ...], Result] = {}
        for figure in self.apart:
            settings = {key: _typed(value) for key, value in figure.keys}
            result = made.setdefault(figure.keys, {"status": "ok", "metrics": {}} | settings)
            result["metrics"][figure.metric] = {"full": figure.full, "variant": figure.variant, "delta": figure.delta}
        return [Run(Path(), "", result) for result in made.values()]


def load_expected(results: Sequence[Result]) -> Expected:
    """Every file that the results name."""
    figures: list[Figure] = []
    problems: list[str] = []
    for path in dict.fromkeys(str(result["expected"]) for result in results if result.get("expected")):
        try:
            figures += read_figures(path)
        except UserError as error:  # an old report outlives the file: said on the page
            problems.append(str(error))
    return Expected(results, list(dict.fromkeys(figures)), problems)


def _table(figures: Sequence[Figure], results: Sequence[Result]) -> Theirs:
    metrics = list(dict.fromkeys(figure.metric for figure in figures))
    by = {(figure.keys, figure.metric): figure for figure in figures}
    heads = [words.field_name(key) for key, _ in figures[0].keys]
    heads += [head for metric in map(words.metric_short, metrics) for head in (f"{metric} of full", metric, "delta")]
    rows = []
    for keys in dict.fromkeys(figure.keys for figure in figures):
        cells = [Part(text) for _, text in keys]
        for metric in metrics:
            figure = by.get((keys, metric))
            values = (None,) * 3 if figure is None else (figure.full, figure.variant, figure.delta)
            cells += [Part(words.fixed(values[0])), Part(words.fixed(values[1])), Part(words.signed(values[2], 2))]
        rows.append(cells)
    heads, rows, once = fold(heads, rows)
    return Theirs("; ".join([figures[0].told(results), *(f"{head} {value}" for head, value in once)]), heads, rows)


def _world(result: Result) -> tuple[str, str]:
    return str(result.get("model")), str(result.get("dataset"))


def _same(key: str, value: object, text: str) -> bool:
    return text in (str(value), words.value_of(key, value))


def _typed(text: str) -> int | str:
    return int(text) if text.isdigit() else text
