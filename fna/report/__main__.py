"""``python -m fna.report FOLDER``: one results.csv, one report.html and one table.md from every result.json below FOLDER.

Exit status 1 where some of these cannot be read; the report of the others is written.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take a while
    run("fna.report.__main__")

import sys
from collections.abc import Sequence
from pathlib import Path

from fna.commands import Parser
from fna.errors import UserError, not_installed
from fna.report.contenders import apart
from fna.report.results import Result, Run, load, write_csv
from fna.streams import never_fail


def report(folder: Path | str, runs: Sequence[Run] | None = None) -> list[Result]:
    """Write and print the report of a folder, or of ``runs`` in it; the results that it found, whole and failed.

    What cannot be written is raised once all else is written and printed.
    """
    from fna.report.table import show, show_sweep

    runs = load(folder) if runs is None else runs
    paths, refused = _write(folder, runs)
    if len(apart(runs)) == 1:
        show(runs[0].result)
    else:
        show_sweep(runs)
    _tell(paths, refused)
    return [run.result for run in runs]


def report_shown(folder: Path | str, runs: Sequence[Run]) -> None:
    """The same of ``runs`` whose table was printed already, as that of a sweep's only job."""
    _tell(*_write(folder, runs))


def _write(folder: Path | str, runs: Sequence[Run]) -> tuple[list[Path], list[UserError]]:
    """Write the three files; their paths, and why others could not be written."""
    from fna.report.page import write_page
    from fna.report.table import write_markdown

    paths, refused = [], []
    for write, these in ((write_csv, apart(runs)), (write_markdown, runs), (write_page, runs)):  # a line for each contender
        try:
            paths.append(write(folder, these))
        except UserError as error:
            refused.append(error)
    return paths, refused


def _tell(paths: Sequence[Path], refused: Sequence[UserError]) -> None:
    """Print where the files are; raise the first refusal."""
    for path in paths:
        print(path)
    if refused:
        raise refused[0]


def main(words: list[str] | None = None) -> int:
    """The command; what a user can mend is one line and the exit status 1."""
    never_fail()
    parser = Parser(prog="python -m fna.report", usage="%(prog)s [-h] FOLDER", description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="a run, a sweep, or any folder above them")
    try:
        folder, *more = parser.parse_args(words).folders
        if more:
            raise UserError(f"{folder} {more[0]}: give one folder, the one above them: all runs below it are read.")
        if not folder:
            raise UserError("FOLDER is empty, perhaps a variable of the shell that is not set; write . for the current folder.")
        found = report(Path(folder))
        if unread := [result for result in found if result.get("status") == "broken"]:
            raise UserError(f"{len(unread)} of {len(found)} results could not be read, as the report says: run these again.")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fna"):  # a bug, not a package that was left out
            raise
        print(f"error: {not_installed('python -m fna.report', error)}", file=sys.stderr)
        return 1
    return 0
