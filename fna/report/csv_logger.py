"""A logger that keeps a CSV file in the run folder: one line for each time the run was finished."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fna.report.results import Result, csv_text, flatten, write_atomically


@dataclass(frozen=True)
class CsvLogger:
    """Appends to ``file``: it is written anew and put in place at once, so new columns fit and no line is ever half there."""

    file: str = "log.csv"

    def check(self) -> None:
        """Nothing to check: the run folder can be written."""

    def log(self, result: Result, config: dict[str, Any], folder: Path) -> None:
        """Add the line of this result."""
        path = folder / self.file
        rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        write_atomically(path, csv_text([*rows, flatten(result)]))
