"""What the models with a text tower share: the pieces that texts are encoded in, and which files make a tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path

TEXT_BATCH = 256
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json", "merges.txt", "tokenizer_config.json")


def texts_digest(folder: Path) -> str | None:
    """What tells a folder's tokenizer from another one, twelve letters; None where there is none."""
    there = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    content = b"".join(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes() for file in there)
    return hashlib.sha256(content).hexdigest()[:12] if there else None
