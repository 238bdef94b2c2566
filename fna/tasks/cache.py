"""Things that cost much and depend on little, kept on disk under a hash of what decides them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from fna.errors import UserError

Array = np.ndarray


def digest_of(decides: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of what decides a thing, 20 hex digits."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:20]


def cached_rows(file: Path, shape: tuple[int, ...], pieces: Callable[[int], Iterator[Array]], dtype: str = "float16") -> Array:
    """A memory-mapped array of ``shape`` in ``file`` (.npy); rows that are not there yet come from ``pieces(rows already there)``.

    Pieces are written in order and counted in a file beside it, so an interrupted run goes on where it stopped; of two runs at once
    one waits. Raises `UserError` where the folder cannot be written or the pieces do not add up to ``shape``.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            done = _fill(file, shape, pieces, dtype)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot keep features there ({error}); remove it or give another task.cache.") from error
    if done != shape[0]:
        raise UserError(f"{file}: {done} of {shape[0]} rows were computed; an image could not be read.")
    return np.load(file, mmap_mode="r")


def _fill(file: Path, shape: tuple[int, ...], pieces: Callable[[int], Iterator[Array]], dtype: str) -> int:
    counter = file.with_suffix(".rows")
    done = int(counter.read_text()) if counter.is_file() and file.is_file() else 0
    if done == shape[0]:
        return done
    if not done:
        counter.unlink(missing_ok=True)  # of a file that is gone: it would count the zeros of the new one
    rows = np.lib.format.open_memmap(file, "r+" if done else "w+", dtype=dtype, shape=None if done else shape)
    for piece in pieces(done):
        rows[done : done + len(piece)] = piece
        done += len(piece)
        rows.flush()
        replace(counter, str(done).encode())
    return done


def replace(file: Path, data: bytes) -> None:
    """Write by a temporary file and a rename: a reader sees the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, file)
