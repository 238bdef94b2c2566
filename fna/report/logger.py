"""What a logger is: told once about each finished run. ``conf/logger/*.yaml`` names one; ``none`` names none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from fna.report.results import Result


class Logger(Protocol):
    """Takes a result, the resolved config that made it and the run folder with result.json, gallery.json and pictures."""

    def log(self, result: Result, config: dict[str, Any], folder: Path) -> None: ...
