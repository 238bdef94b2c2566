"""A logger that keeps a CSV file in the run folder: one line for each time the run was finished."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from fna.cells import csv_text
from fna.errors import UserError
from fna.records import only_one, regular
from fna.report.results import Result, flatten, write_text

TAKEN = ("classes.csv", "results.csv")  # written by others


@dataclass(frozen=True)
class CsvLogger:
    """Appends to ``file``: it is written anew and put in place at once, so new columns fit and no line is ever half there."""

    file: str = "log.csv"

    def check(self) -> None:
        """Raise `UserError` unless ``file`` is a CSV of its own in the run folder."""
        asked = PurePath(self.file)
        if asked.is_absolute() or ".." in asked.parts or asked.suffix != ".csv" or asked.name in TAKEN or "\0" in self.file:
            raise UserError(f"logger.file={self.file}: it lies in the run's folder; give a name such as log.csv.")

    def log(self, result: Result, config: dict[str, Any], folder: Path) -> None:
        """Add the line of this result."""
        self.check()
        path = folder / self.file
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"logger.file={self.file}: {path.parent} leads out of the run's folder; give a name such as log.csv.")
        with only_one(path):  # of two runs in one folder each keeps its line
            write_text(path, csv_text([*_lines(path), flatten(result)]))


def _lines(path: Path) -> list[dict[str, Any]]:
    """What was logged before. Raises `UserError` for what is no CSV: lines of earlier runs may be in it, it is not written over."""
    try:
        if path.exists():
            with regular(path).open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                lines = list(reader)
                heads = reader.fieldnames or []
                if len(set(heads)) < len(heads) or any(None in line for line in lines):
                    raise csv.Error("a column stands there twice, or a line has more cells than there are columns")
                return lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no CSV that could be added to ({error}); move it away, or give logger.file=NAME.csv.") from error
    return []
