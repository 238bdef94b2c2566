"""Folders of a run and of what lies beside weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fna.records import unwritten

TEXTS = frozenset({".json", ".txt", ".gz", ".model"})


def checked_folder(path: str | Path) -> Path:
    """A folder that exists and can be written, or `UserError`."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(folder, error) from error
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
