"""What others measured, beside what we measured: the ``expected.csv`` of an experiment, its columns in experiments/README.md.

A result names its file under "expected"; a relative path starts where ``conf/`` lies, or in the current folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from fna.configs import CONF
from fna.errors import UserError
from fna.records import regular
from fna.report import formats
from fna.report.grid import fold, numeric_columns
from fna.report.results import FOLLOWS, Result, Run, dig, expected_files, number, overrides, setting
from fna.report.words import Part
from fna.values import counted

FIXED = ("source", "model", "dataset", "metric", "full", "variant", "tolerance")
DECIDES = ("attn.", "sampler.", "mask.", "task.")  # options typed below these make another figure
BLOCKS = frozenset({"mask_start", "layers"})  # numbers of blocks, which mean the same in one model only


@dataclass(frozen=True)
class Figure:
    """A metric, or a measure of fidelity, that ``source`` measured with ``model`` on ``dataset``; ``keys`` say with which settings.

    ``tolerance``: how far ours may lie from it, in the metric's own unit.
    """

    source: str
    model: str
    dataset: str
    keys: tuple[tuple[str, str], ...]
    metric: str
    full: float
    variant: float | None
    tolerance: float | None

    @property
    def world(self) -> tuple[str, str]:
        """The model and the data set."""
        return self.model, self.dataset

    @property
    def delta(self) -> float | None:
        """The difference to full attention, in the metric's own unit."""
        return None if self.variant is None else self.variant - self.full

    def text(self, result: Result) -> str:
        """``34.10 (-1.23)``, the difference to full in brackets; where only full was measured, that; of fidelity the figure."""
        if self.metric not in (result.get("metrics") or {}):
            return formats.fixed(self.variant, _digits(self.metric))
        return (
            f"{formats.fixed(self.full)} full" if self.variant is None else f"{self.variant:,.2f} ({formats.signed(self.delta, 2)})"
        )

    def fits(self, result: Result) -> bool:
        """Whether a result has these settings; an option that was typed and that no key speaks of makes it another one."""
        keys = dict(self.keys)
        typed = {key for key in overrides(result) if key.startswith(DECIDES)}
        unsaid = {key for key in typed if key not in keys and FOLLOWS.get(key) not in keys}
        return not unsaid and all(_same(key, setting(result, key), text) for key, text in keys.items() if text)

    def unlike(self, result: Result) -> dict[str, str]:
        """The settings in which a result differs, and its own values."""
        told = {key: setting(result, key) for key, text in self.keys if text and not _same(key, setting(result, key), text)}
        return {key: formats.value_of(key, value) for key, value in told.items()}

    def missed(self, result: Result) -> bool:
        """Whether ours lies further off than the tolerance."""
        ours = dig(result, "metrics", self.metric)
        near = number(dig(result, "fidelity", self.metric))
        pairs = [(number(dig(ours, "full")), self.full), (number(dig(ours, "variant")) if ours else near, self.variant)]
        return any(our is not None and their is not None and abs(our - their) > (self.tolerance or inf) for our, their in pairs)

    def is_share(self, result: Result) -> bool:
        """Whether it looks like a share of 1 beside ours, which is in percent."""
        ours = number(dig(result, "metrics", self.metric, "full"))
        return ours is not None and ours > 2 and 0 < self.full <= 1 and (self.variant is None or 0 <= self.variant <= 1)

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


def placed(path: str) -> str:
    """The path as results keep it: as it is where it lies beside ``conf/``; else seen from the current folder, and absolute."""
    return path if Path(CONF.parent, path).is_file() else str(Path(path).absolute())


def read_figures(path: str) -> list[Figure]:
    """The figures in a file, at least one. Raises `UserError` where it is not there or not such a file."""
    place = Path(CONF.parent, placed(path))
    try:
        with regular(place).open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark before the first column
            rows = csv.DictReader(file)
            if absent := [name for name in FIXED[:5] if name not in (rows.fieldnames or ())]:
                raise ValueError(f"its first line has no column {absent[0]}")
            figures = [_figure(row) for row in rows]
    except OSError as error:
        give = "give a CSV file, as experiments/README.md says"
        raise UserError(f"expected={path}: {place} cannot be read ({error.strerror}); {give}.") from None
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"expected={path}: not a table of {', '.join(FIXED[:5])} ({error}); save it with commas between columns and points "
            "in numbers."
        ) from None
    if not figures:
        raise UserError(f"expected={path}: has no figure below its columns; write a line for each.")
    return figures


def _figure(row: dict[str, str]) -> Figure:
    if None in row or None in row.values():
        raise ValueError(f"the line of {row['source']} has more or fewer cells than there are columns")
    keys = tuple((key, value) for key, value in row.items() if key not in FIXED)
    variant, tolerance = (_finite(float(row[key])) if row.get(key) else None for key in ("variant", "tolerance"))
    full = _finite(float(row["full"]))
    return Figure(row["source"], row["model"], row["dataset"], keys, row["metric"], full, variant, tolerance)


def _finite(value: float) -> float:
    """The value. Raises `ValueError` for one that is no figure."""
    if not isfinite(value):
        raise ValueError(f"{value} is no figure; leave the cell empty or the line out")
    return value


@dataclass(frozen=True)
class Expected:
    """The figures in the ``files`` that ``results`` name; ``problems`` says in a sentence which file cannot be used."""

    results: Sequence[Result]
    files: Mapping[str, Sequence[Figure]]
    problems: Sequence[str]

    @property
    def figures(self) -> list[Figure]:
        """All of them, each once."""
        return list(dict.fromkeys(figure for each in self.files.values() for figure in each))

    def beside(self, result: Result) -> list[Figure]:
        """The figures that belong beside the metrics of a result: those in files that it names, with the same settings.

        Of the same model and data set where there are any; else of the one other pair that there is, unless block numbers tell its
        figures apart.
        """
        named = list(dict.fromkeys(figure for path in expected_files(result) for figure in self.files.get(path, ())))
        pool = [figure for figure in named if figure.world == _world(result)]
        if not pool and len({figure.world for figure in named}) == 1:
            pool = [figure for figure in named if not BLOCKS & {key for key, _ in figure.keys}]
        measured = _measured(result)
        return [figure for figure in pool if figure.metric in measured and figure.fits(result)]

    def text(self, result: Result, metric: str, source: str) -> str:
        """What a source measured, for the cell beside a metric of a result."""
        found = [figure.text(result) for figure in self.beside(result) if (figure.metric, figure.source) == (metric, source)]
        return " or ".join(found) or formats.NOTHING

    @property
    def apart(self) -> list[Figure]:
        """The figures, if none of them stands beside any of our results; else none."""
        return [] if any(map(self.beside, self.results)) else self.figures

    def sources(self) -> list[str]:
        """Whose the figures beside ours are, said once for each source; how many have no place there, and what no result has."""
        pairs = [(figure, result) for result in self.results for figure in self.beside(result)]
        used = {figure for figure, _ in pairs}
        ours = {_world(result) for result in self.results}
        unused = [figure for figure in self.figures if figure not in used]
        lost = [figure for figure in unused if figure.world in ours]
        elsewhere = len(unused) - len(lost)
        known = {key for result in self.results for key in (*result, *overrides(result), *_measured(result))}
        unknown = dict.fromkeys(key for figure in lost for key in (*dict(figure.keys), figure.metric) if key not in known)
        missed = sum(figure.missed(result) for figure, result in pairs)
        said = list(dict.fromkeys(figure.told(self.results) for figure, _ in pairs))
        shares = [figure for figure, result in pairs if figure.is_share(result)]
        if shares:
            said.append(
                f"{counted(len(set(shares)), 'expected figure')} at most 1 where ours are in percent (first: {shares[0].metric} of "
                f"{shares[0].source}): write 91.6, not 0.916"
            )
        said += [f"{missed} of ours {'lies' if missed == 1 else 'lie'} further from these than the tolerance"] if missed else []
        named = ", ".join(dict.fromkeys(key for result in self.results for key in result.get("metrics") or {}))
        what = f": none has {', '.join(unknown)}" if unknown else ""
        what += f" (metrics here: {named})" if named and any(figure.metric in unknown for figure in lost) else ""
        what = what or self._apart_in(lost)
        said += [_elsewhere(elsewhere)] if elsewhere else []
        fit = "matches" if len(lost) == 1 else "match"
        return said + ([f"{len(lost)} of {counted(len(self.figures), 'expected figure')} {fit} no result{what}"] if lost else [])

    def _apart_in(self, lost: Sequence[Figure]) -> str:
        """The one setting in which all these figures differ from our nearest result, ``: samples 10000 there, 20 here``."""
        nearest = [
            min((figure.unlike(result) for result in self.results if _world(result) == figure.world), key=len) for figure in lost
        ]
        keys = {key for unlike in nearest for key in unlike}
        if len(keys) != 1 or not all(nearest):
            return ""
        (key,) = keys
        theirs, ours = ([dict(figure.keys)[key] for figure in lost], [unlike[key] for unlike in nearest])
        return f": {formats.field_name(key)} {_either(theirs)} there, {_either(ours)} here"

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
    files: dict[str, list[Figure]] = {}
    problems: list[str] = []
    for path in expected_files(*results):
        try:
            files[path] = read_figures(path)
        except UserError as error:  # an old report outlives the file: said on the page
            problems.append(str(error))
    return Expected(results, files, problems)


def _table(figures: Sequence[Figure], results: Sequence[Result]) -> Theirs:
    metrics = list(dict.fromkeys(figure.metric for figure in figures))
    by = {(figure.keys, figure.metric): figure for figure in figures}
    heads = [formats.field_name(key) for key, _ in figures[0].keys]
    heads += [head for metric in map(formats.metric_short, metrics) for head in (f"{metric} of full", metric, "delta")]
    rows = []
    for keys in dict.fromkeys(figure.keys for figure in figures):
        cells = [Part(text) for _, text in keys]
        for metric in metrics:
            figure = by.get((keys, metric))
            values = (None,) * 3 if figure is None else (figure.full, figure.variant, figure.delta)
            digits = _digits(metric)
            cells += [Part(formats.fixed(value, digits)) for value in values[:2]] + [Part(formats.signed(values[2], digits))]
        rows.append(cells)
    heads, rows, once = fold(heads, rows)
    return Theirs("; ".join([figures[0].told(results), *(f"{head} {value}" for head, value in once)]), heads, rows)


def _either(texts: Sequence[str]) -> str:
    """``16, 32``: each once; of many the first."""
    once = list(dict.fromkeys(texts))
    return ", ".join([*once[:3], *(["..."] if len(once) > 3 else [])])


def _elsewhere(count: int) -> str:
    are = "is of another model or data set and stands apart" if count == 1 else "are of another model or data set and stand apart"
    return f"{counted(count, 'expected figure')} {are}"


def _measured(result: Result) -> list[str]:
    """The metrics of a result, and its measures of how near the outputs are to those of full."""
    near = (key for key, value in (result.get("fidelity") or {}).items() if number(value) is not None)
    return [*(result.get("metrics") or {}), *near]


def _digits(metric: str) -> int:
    """Digits behind the point: errors are small."""
    return 4 if metric.endswith("error") else 2


def _world(result: Result) -> tuple[str, str]:
    return str(result.get("model")), str(result.get("dataset"))


def _same(key: str, value: object, text: str) -> bool:
    return text in (str(value), formats.value_of(key, value))


def _typed(text: str) -> int | str:
    return int(text) if text.isdigit() else text
