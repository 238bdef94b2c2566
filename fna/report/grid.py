"""Grids of cells: which columns hold numbers, and what all rows share said once."""

from __future__ import annotations

from collections.abc import Sequence

from fna.report.formats import NOTHING
from fna.report.words import Part

Grid = tuple[list[str], list[list[Part]]]


def numeric_columns(rows: Sequence[Sequence[Part]]) -> list[bool]:
    """For each column whether all of its cells look like numbers, intervals or nothing."""
    return [all(cell.text[:1] in "+-–([0123456789" for cell in column) for column in zip(*rows, strict=True)]


def fold(heads: list[str], rows: list[list[Part]]) -> tuple[list[str], list[list[Part]], list[tuple[str, str]]]:
    """Take out the columns that say nothing in any row, and those that say the same in every row, which are said once, above."""
    said = [{row[place].text for row in rows} for place in range(len(heads))]
    empty = {place for place, texts in enumerate(said) if texts == {NOTHING}}
    once = {
        place
        for place, head in enumerate(heads)
        if len(rows) > 1 and place not in empty and head.endswith((" of full", "against")) and len(said[place]) == 1
    }
    kept = [place for place in range(len(heads)) if place not in empty | once]
    same = [(heads[place], rows[0][place].text) for place in sorted(once)]
    return [heads[place] for place in kept], [[row[place] for place in kept] for row in rows], same
