"""Writing files so that none is ever half there."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.errors import UserError

TEXTS = frozenset({".json", ".txt", ".gz", ".model"})


def write_atomic(path: Path, data: bytes) -> None:
    """Write by a temporary file in the same folder and a rename; a reader sees the old file or the new one, never half."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"{path.parent}: cannot write there ({error.strerror}); choose another folder.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def json_bytes(value: Any) -> bytes:
    """``value`` as JSON that every reader takes: what is no finite number becomes null, what JSON does not know its text.

    A figure that has to be a number is refused before (`fna.metrics.compare.check_numbers`); null says that there is none.
    """
    return json.dumps(_finite(value), indent=1, allow_nan=False, default=str).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checked_folder(path: str | Path) -> Path:
    """A folder that exists and can be written, or `UserError`."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror}); choose another folder.") from error
    return folder


def digest_texts(folder: Path) -> str:
    """sha256 of the names and bytes of a folder's configs and vocabularies: what lies there beside weights.

    Of what is no folder (a name on the hub) its name stands for it.
    """
    total = hashlib.sha256(b"" if folder.is_dir() else str(folder).encode())
    for file in sorted(folder.glob("*")):
        if file.suffix in TEXTS:
            total.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return total.hexdigest()
