"""Stage 7, what is shown: pictures and files in the run's folder, a table in the terminal, the page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fna.progress import say
from fna.records import write_atomic
from fna.report import table
from fna.report.page import write_page
from fna.report.results import load, read, written_by
from fna.runner import gallery
from fna.runner.compared import Compared
from fna.runner.loaded import Loaded
from fna.runner.outcomes import Rows, Scored
from fna.surgery.variant import FULL
from fna.tasks.exhibits import Pass, Show, exhibits


def hang(folder: Path, loaded: Loaded, rows: Rows, full: Scored, compared: Sequence[Compared], count: int) -> list[str]:
    """Write ``gallery.json`` and what it names: landmarks and flips of any task, and whatever the task brings itself.

    Returns the files, without those in folders of their own. What an earlier run in ``folder`` wrote and this one does not is
    removed: it would stand beside a result that it is not of.
    """
    tower = loaded.model.tower
    passes = [
        Pass(one.variant.label, one.outcome, rows.run(one.variant, one.key), partial(one.variant.on, tower))
        for one in (full, *(one.scored for one in compared))
    ]

    files: list[str] = []

    def write(name: str, content: bytes) -> None:
        write_atomic(folder / name, content)
        if name == Path(name).name:
            files.append(name)

    show = Show(loaded.model, loaded.dataset, passes, count, write)
    sections: dict[str, Any] = {
        "landmarks": gallery.landmarks(show, loaded.task, compared[0].contender.variant if compared else FULL)
    }
    if len(compared) > 1:
        chosen = {one.contender.label: gallery.landmarks(show, loaded.task, one.contender.variant) for one in compared}
        sections["contenders"] = [{"label": label, "landmarks": found} for label, found in chosen.items()]
    sections |= gallery.flips(show) if compared else {"flips": []}
    sections |= exhibits(loaded.task, show)
    show.table("gallery.json", sections)
    for name in written_by(read(folder / "result.json")):
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    return files


def finish(result: dict[str, Any], folder: Path) -> None:
    """Write ``table.md`` and ``report.html``; then print."""
    table.write_markdown(folder)
    page = write_page(folder)
    if result.get("contenders"):
        table.show_sweep(load(folder))
    else:
        table.show(result)
    say(f"page: {page}")
