"""What a table leaves out, joins and stacks so that it fits a terminal; what it left out is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from fna.report import formats
from fna.report.grid import Grid
from fna.report.words import Part

Heads = list[str]
Rows = list[list[Part]]
Step = Callable[[Heads, Rows], Grid]

BELOW = ("95 % interval", "over seeds")
FIRST_TO_GO = (
    "memory", "operations", "sampling", "against", "pieces",
    "cache MB of full", "ms first token of full", "ms further token of full",
)  # fmt: skip
NEXT_TO_GO = ("i2t agreement", "agreement", "ms first token", "ms further token", "cache MB")
ALWAYS = 2  # columns that say which run a line is about, and are never joined
NAMED = (48, 34)  # characters of a line in the cell that they are joined in: with room, and without


class Fitted(NamedTuple):
    """A table, and the columns for which there was no room."""

    heads: Heads
    rows: Rows
    lost: list[str]


def fitted(heads: Heads, rows: Rows, labels: Sequence[str], own: int, fits: Callable[[Heads, Rows], bool]) -> Fitted:
    """The table with no more than fits: step by step fewer columns, what matters least first.

    ``own``: how many columns at the left say which run a line is about; ``labels``: all of them in words, for each line.
    """
    sums = [head for head, after in pairwise(heads) if after == "delta"]  # that a difference goes with
    told = [head for head in heads if head.removesuffix(" of full") in sums and head.endswith(" of full")]
    steps: list[Step] = [
        *(partial(_leave_out, head=head) for head in FIRST_TO_GO),
        *(partial(_join, head=head) for head in sums),
        *([partial(described, labels=_wrapped(labels, NAMED[0]), own=own)] if own > ALWAYS else []),
        _stacked,
        *([partial(described, labels=_wrapped(labels, NAMED[1]), own=1)] if own > ALWAYS else []),
        *(partial(_below, head=head) for head in told),
        *(partial(_leave_out, head=head) for head in (*NEXT_TO_GO, "output error")),
    ]
    before = heads
    for step in steps:
        if fits(heads, rows):
            break
        heads, rows = step(heads, rows)
    gone = [*FIRST_TO_GO, *NEXT_TO_GO, *sums, "output error"]
    return Fitted(heads, rows, [head for head in before if head in gone and head not in heads and f"{head}\ndelta" not in heads])


def described(heads: Heads, rows: Rows, labels: Sequence[str], own: int) -> Grid:
    """The columns that say which run a line is about, as one."""
    return [heads[0], *heads[own:]], [[row[0]._replace(text=label), *row[own:]] for row, label in zip(rows, labels, strict=True)]


def _wrapped(labels: Sequence[str], width: int) -> list[str]:
    """Labels in lines of a narrow column, broken after commas alone."""
    return ["\n".join(line for part in label.split("\n") for line in _lines(part.split(", "), width)) for label in labels]


def _lines(pieces: Sequence[str], width: int) -> list[str]:
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) + 3 > width:
            lines[-1] += ","
            lines.append(piece)
        else:
            lines[-1] += f", {piece}"
    return lines


def _leave_out(heads: Heads, rows: Rows, head: str) -> Grid:
    kept = [place for place, name in enumerate(heads) if name != head]
    return [heads[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _join(heads: Heads, rows: Rows, head: str) -> Grid:
    """Without a column whose name goes over to the difference beside it."""
    named = [f"{head}\ndelta" if place and heads[place - 1] == head else name for place, name in enumerate(heads)]
    return _leave_out(named, rows, head)


def _below(heads: Heads, rows: Rows, head: str) -> Grid:
    """The score of full on a line of its own below the difference to it."""
    place, metric = heads.index(head), head.removesuffix(" of full")
    beside = heads.index(next(name for name in heads[place + 1 :] if name in (f"{metric}\ndelta", "delta")))
    told = [
        [part._replace(text=f"{part.text}\nfull {row[place].text}") if at == beside else part for at, part in enumerate(row)]
        for row in rows
    ]
    return _leave_out(heads, told, head)


def _stacked(heads: Heads, rows: Rows) -> Grid:
    """Every interval, over samples and over seeds, on a line of its own below the value that it belongs to."""
    kept = [place for place, head in enumerate(heads) if head not in BELOW]
    ends = [*kept[1:], len(heads)]

    def cell(row: list[Part], place: int, end: int) -> Part:
        lines = [row[place].text, *(part.text for part in row[place + 1 : end] if part.text not in ("", formats.NOTHING))]
        return Part("\n".join(lines), row[place].mark)

    return [heads[place] for place in kept], [[cell(row, *both) for both in zip(kept, ends, strict=True)] for row in rows]
