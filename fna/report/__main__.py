"""``python -m fna.report FOLDER``: one results.csv, one report.html and one table.md from every result.json below FOLDER."""

from __future__ import annotations

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
    from fna.report.page import write_page
    from fna.report.table import show, show_sweep, write_markdown

    runs = load(folder) if runs is None else runs
    paths, refused = [], []
    lines = apart(runs)  # a line of the CSV for each contender
    for write, these in ((write_csv, lines), (write_markdown, runs), (write_page, runs)):
        try:
            paths.append(write(folder, these))
        except UserError as error:
            refused.append(error)
    if len(lines) == 1:
        show(runs[0].result)
    else:
        show_sweep(runs)
    for path in paths:
        print(path)
    if refused:
        raise refused[0]
    return [run.result for run in runs]


def main(words: list[str] | None = None) -> int:
    """The command; what a user can mend is one line and the exit status 1."""
    never_fail()
    parser = Parser(prog="python -m fna.report", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="a run, a sweep, or any folder above them")
    try:
        folder = parser.parse_args(words).folder
        if not folder:
            raise UserError("FOLDER is empty, perhaps a variable of the shell that is not set; write . for the current folder.")
        report(Path(folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fna"):  # a bug, not a package that was left out
            raise
        print(f"error: {not_installed('python -m fna.report', error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
