"""Files that are not what they are called: pointers, web pages, packed files, told by their first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from fna.errors import UserError
from fna.records import regular

LFS = b"version https://git-lfs"
PAGE = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)
PACKED = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"7z\xbc\xaf", "7z"), (b"\xfd7zXZ", "xz"), (b"Rar!", "rar"))
ZIP = b"PK\x03\x04"
PARQUET = b"PAR1"


def mistaken(start: bytes) -> str:
    """What a file of text or pixels that begins so is instead, and what to do; empty where it may be what it is called."""
    if start.startswith(LFS):
        return "a pointer of git-lfs, not the file itself; fetch that with git lfs pull"
    if PAGE.match(start):
        return "a web page (HTML): the download gave a page of its own; fetch the file again"
    if start.startswith(ZIP):
        return "a zip archive, as spreadsheets (.xlsx) are too; unpack it, or save the sheet as text"
    if start.startswith(PARQUET):
        return "a parquet table; write what it holds into files, pictures as JPEG or PNG and texts as JSON"
    return next((f"packed by {by}; unpack it" for sign, by in PACKED if start.startswith(sign)), "")


def beginning(path: Path) -> bytes:
    """The first bytes of a file; none of one that cannot be read, and of a pipe or a device, which would be waited for."""
    try:
        with regular(path).open("rb") as file:
            return file.read(512)
    except OSError:
        return b""


def refuse_mistaken(path: Path) -> None:
    """Raise `UserError` for a file that is plainly something else than text."""
    if what := mistaken(beginning(path)):
        raise UserError(f"{path}: {what}.")
