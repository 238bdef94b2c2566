"""What a run tells while it works: sentences and bars on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fna.report import formats

console = Console(stderr=True)
REMEMBERED = 3600.0  # seconds of progress that the time left is told from: rich's own 30 tell none where a batch takes longer


def say(sentence: str) -> None:
    """Print a line as it is."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar(label: str, total: int | None, what: str = "images") -> Iterator[Callable[[int], None]]:
    """A progress bar with a rate; what it gives is told how many are done."""
    counted = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    times = (TimeElapsedColumn(), TextColumn("passed,"), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*counted, *times, console=console, speed_estimate_period=REMEMBERED) as progress:
        shown = progress.add_task(label, total=total, rate="")
        began = time.perf_counter()

        def advance(n: int) -> None:
            progress.advance(shown, n)
            done = progress.tasks[0].completed
            progress.update(shown, rate=f"{formats.rate(done / (time.perf_counter() - began))} {what}/s,")

        yield advance
