"""A file to which lines of JSON are added as they come: whoever is killed loses the line being written, nothing before it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from fna.records import SEAL, regular, unwritten


class Ledger:
    """Lines by the ``name`` field of each, the last one counting; several threads or processes may add.

    Each carries a digest of itself: one that has changed in any byte is none. A line without one, of an earlier fna, is taken.
    """

    def __init__(self, path: Path, name: str) -> None:
        """What is there is read. A line that is none, such as one cut by a kill, is passed over."""
        self.path, self.name = path, name
        self.lines: dict[str, dict[str, Any]] = {}
        self._lock = Lock()
        try:
            data = regular(path).read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise unwritten(path, error) from error
        for line in data.split(b"\n"):
            try:
                found = json.loads(line)
                if found.pop(SEAL, seal := _seal(found)) != seal:
                    continue
                self.lines[str(found[name])] = found
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one line, to the disk. Raises `UserError` where that cannot be done."""
        content = json.loads(_said(line))  # halves of characters, which a model may write, are gone
        data = _said({**content, SEAL: _seal(content)}) + b"\n"
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


def _said(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode(errors="replace")


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps({name: value for name, value in content.items() if name != SEAL}).encode()).hexdigest()[:16]


def _ends(file: Any) -> bool:
    """Whether the file ends with the end of a line."""
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
