"""Printing that never fails: a finished job is finished, whether or not anybody listens."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


class Patient:
    """A text stream that takes whatever is written: once the other end is closed, or full, the rest goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's own."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # a broken pipe, a full disk, a closed file
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """As the stream's own."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Lead the descriptor itself nowhere: what still lies in the stream's buffer is flushed there at the end of Python."""
        try:
            _lead_nowhere(self._stream.fileno())
        except (OSError, ValueError):  # the stream is closed or has no descriptor
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def never_fail() -> None:
    """Make stdout and stderr `Patient`, of any encoding and also where they are closed (``>&-``), and of a width above 0.

    Twice is as once.
    """
    for size in ("COLUMNS", "LINES"):
        if os.environ.get(size, "").strip("0 ") == "":  # as shells say that they do not know it; no table fits into 0 columns
            os.environ.pop(size, None)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, Patient):
            continue
        if stream is None:  # closed before Python began: the next file opened would get the number, and all that is printed
            try:
                os.fstat(descriptor)
            except OSError:
                _lead_nowhere(descriptor)
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding does not have
        setattr(sys, name, Patient(stream))


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
