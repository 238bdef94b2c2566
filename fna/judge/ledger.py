"""A file to which lines of JSON are added as they come: whoever is killed loses the line being written, nothing before it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from fna.records import unwritten


class Ledger:
    """Lines by the ``name`` field of each, the last one counting; several threads or processes may add."""

    def __init__(self, path: Path, name: str) -> None:
        """What is there is read. A line that is none, such as one cut by a kill, is passed over."""
        self.path, self.name = path, name
        self.lines: dict[str, dict[str, Any]] = {}
        self._lock = Lock()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise unwritten(path, error) from error
        for line in data.split(b"\n"):
            try:
                found = json.loads(line)
                self.lines[str(found[name])] = found
            except (ValueError, KeyError, TypeError, RecursionError):
                continue

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one line, to the disk. Raises `UserError` where that cannot be done."""
        data = json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a+b") as file:
                    if file.tell() and not _ends(file):
                        data = b"\n" + data  # behind a line that was cut
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise unwritten(self.path, error) from error
            self.lines[str(line[self.name])] = dict(line)


def _ends(file: Any) -> bool:
    """Whether the file ends with the end of a line."""
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
