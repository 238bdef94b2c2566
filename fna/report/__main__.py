"""``python -m fna.report FOLDER``: one results.csv, one report.html and one table.md from every result.json below FOLDER."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fna.errors import UserError
from fna.report.results import Result, load, write_csv
from fna.report.table import show, show_sweep, write_markdown


def report(folder: Path | str) -> list[Result]:
    """Write and print the report of a folder; the results that it found, whole and failed."""
    from fna.report.page import write_page

    runs = load(folder)
    paths = (write_csv(folder), write_markdown(folder), write_page(folder))  # first: a closed pipe ends the printing
    if len(runs) == 1:
        show(runs[0].result)
    else:
        show_sweep(runs)
    for path in paths:
        print(path)
    return [run.result for run in runs]


def main(words: list[str] | None = None) -> int:
    """The command; what a user can mend is one line and the exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m fna.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run, a sweep, or any folder above them")
    try:
        report(parser.parse_args(words).folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
