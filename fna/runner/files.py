"""Folders of a run and of what lies beside weights."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from fna.errors import UserError
from fna.records import unwritten

LOCK = ".fna.lock"  # in a folder that a process works in
_held: dict[Path, FileLock] = {}  # of this process, until it ends

TEXTS = frozenset({".json", ".txt", ".gz", ".model"})


def checked_folder(path: str | Path) -> Path:
    """A folder that exists and can be written, or `UserError`."""
    folder = Path(path)
    if folder.parts[:1] and folder.parts[0].startswith("~"):  # would become a folder of that name, in whatever folder this is
        meant = os.path.expanduser(folder)
        write = meant if meant != str(folder) else "it out"
        raise UserError(f"{folder}: shells know ~ at the start of a word alone; write {write}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(folder, error) from error
    return folder


def take(folder: Path, knob: str) -> None:
    """Hold the folder that ``knob`` names until this process ends, however it does. Raises `UserError` where another one does."""
    place = checked_folder(folder).resolve()
    if place in _held:
        return
    lock = FileLock(place / LOCK)
    try:
        lock.acquire(timeout=0)
        _held[place] = lock
    except Timeout:
        raise UserError(f"{folder}: another run is at work in this folder; give another {knob}.") from None
    except NotImplementedError:  # a file system without locks
        return
    except OSError as error:
        raise unwritten(folder, error) from error


def held() -> Path | None:
    """The folder that this process holds, the last of several."""
    return next(reversed(_held), None)


def digest_texts(folder: Path) -> str:
    """sha256 of the names and bytes of a folder's configs and vocabularies: what lies there beside weights.

    Of what is no folder (a name on the hub) its name stands for it.
    """
    total = hashlib.sha256(b"" if folder.is_dir() else str(folder).encode())
    for file in sorted(folder.glob("*")):
        if file.suffix in TEXTS:
            total.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return total.hexdigest()
