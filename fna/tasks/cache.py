"""Things that cost much and depend on little, kept on disk under a hash of what decides them, with a digest of what they hold."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fna.errors import UserError
from fna.progress import say
from fna.records import file_digest, make_way, only_one, read_record, unwritten, write_record

Array = np.ndarray
NO_SUCH_CALL = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})  # of file systems that cannot set room aside


def digest_of(decides: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of what decides a thing, 20 hex digits."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:20]


def cached_rows(file: Path, shape: tuple[int, ...], pieces: Callable[[int], Iterator[Array]], dtype: str = "float16") -> Array:
    """A memory-mapped array of ``shape`` in ``file`` (.npy); rows that are not there yet come from ``pieces(rows already there)``.

    Pieces are written in order. A record beside the file holds how many rows are there and their digest, so an interrupted run goes
    on where it stopped, and what does not fit its digest is made again; of two runs at once one waits. All the room is taken before
    the first piece is computed. Raises `UserError` where the file cannot be written or the pieces do not add up to ``shape``.
    """
    with only_one(file):
        done = _fill(file, shape, pieces, np.dtype(dtype))
        if done != shape[0]:
            raise UserError(f"{file}: {done} of {shape[0]} rows were computed; an image could not be read.")
        return np.load(file, mmap_mode="r")


def _fill(file: Path, shape: tuple[int, ...], pieces: Callable[[int], Iterator[Array]], dtype: np.dtype) -> int:
    """Append what is missing; how many rows are there then. Rows are written, not mapped: there a full disk is a bus error."""
    head = _head(shape, dtype)
    record, width = file.with_suffix(".rows.json"), dtype.itemsize * int(np.prod(shape[1:]))
    done, total = _there(file, record, head, width, shape[0])
    if done == shape[0]:
        return done
    if not done:
        _make_room(file, head, len(head) + shape[0] * width)
    for piece in pieces(done):
        rows = np.ascontiguousarray(piece, dtype)
        if rows.shape[1:] != shape[1:] or done + len(rows) > shape[0]:
            raise UserError(
                f"{file}: rows {rows.shape} do not fit into {shape} after {done}; remove it, or choose another task.cache."
            )
        with _writing(file), file.open("r+b") as opened:
            opened.seek(len(head) + done * width)
            opened.write(rows.data)
        total.update(rows.data)
        done += len(rows)
        write_record(record, {"rows": done, "sha256": total.hexdigest()})
    return done


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritten(file, error) from error


def _there(file: Path, record: Path, head: bytes, width: int, count: int) -> tuple[int, Any]:
    """How many rows are there, whole and unchanged, and the running digest of the file up to them."""
    kept = read_record(record)
    if kept is not None and file.is_file() and file.stat().st_size == len(head) + count * width:
        total = file_digest(file, len(head) + kept["rows"] * width)
        if total.hexdigest() == kept["sha256"]:
            return kept["rows"], total
        say(f"{file}: changed since it was written, made again")
    return 0, hashlib.sha256(head)


def _head(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return head.getvalue()


def _make_room(file: Path, head: bytes, size: int) -> None:
    """A new file of full size; an old one, which another process may have mapped, is left to it."""
    make_way(file)
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        try:
            with file.open("xb") as opened:
                opened.write(head)
                opened.truncate(size)
                opened.flush()
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(opened.fileno(), 0, size)
        except OSError as error:
            if error.errno not in NO_SUCH_CALL:
                file.unlink(missing_ok=True)
                raise
