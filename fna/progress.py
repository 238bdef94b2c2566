"""What is told on stderr while it works: sentences, and bars whose times say what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)
REMEMBERED = 3600.0  # seconds of progress that the time left is told from: rich's own 30 tell none where a batch takes longer


def say(sentence: str) -> None:
    """Print a line as it is."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar; what it gives is told how many more are done.

    It has no rate: variants share what they have in common, so that the images a second of one are no speed.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}") if total is None else MofNCompleteColumn(),
    )
    passed = (TimeElapsedColumn(), TextColumn("passed" if total is None else "passed,"))
    times = passed if total is None else (*passed, TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, *times, console=console, speed_estimate_period=REMEMBERED) as progress:
        shown = progress.add_task(label, total=total)
        try:
            yield lambda n: progress.advance(shown, n)
        except Exception:
            progress.live.transient = True  # it goes: what stopped it is told in a line, beside which a dead bar tells nothing
            raise


def through(things: Iterable[T], label: str, total: int) -> Iterator[T]:
    """``things``, and a bar of how many of ``total`` are done with."""
    with bar(label, total) as advance:
        for thing in things:
            yield thing
            advance(1)
