"""What a pickle holds, read off its opcodes: nothing in it is made or run."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fna.models.checkpoints import CONTAINERS, TRAINING, averaged

MEMO = ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT")


def tensors_key(file: Path) -> str | None:
    """The key of a torch file under which the model's tensors lie by name; None where they lie at the top, or nobody can tell."""
    keys = list(dict.fromkeys(_keys_of_mappings(file)))
    trained = [key for key in keys if key in CONTAINERS and not averaged(key)]
    others = [key for key in keys if key in CONTAINERS or averaged(key) or (key not in TRAINING and "state_dict" in key)]
    return next(iter([*trained, *others]), None)


def pickle_protocol(file: Path) -> int:
    """The protocol of a torch file's pickle; 0 where it names none."""
    return next((int(value) for name, value in _opcodes(file) if name == "PROTO"), 0)


def _keys_of_mappings(file: Path) -> Iterator[str]:
    """Texts in the pickle that a mapping follows: ``{"model": {...}}``, ``{"model": OrderedDict(...)}``."""
    before: str | None = None
    last: str | None = None  # of what was just made: a text, or None
    memo: dict[Any, str | None] = {}  # an interned word is written once and then referred to
    for name, value in _opcodes(file):
        if name in MEMO:
            memo[len(memo) if value is None else value] = last
            continue
        before, last = last, None
        if name == "EMPTY_DICT" or (name == "GLOBAL" and str(value) == "collections OrderedDict"):
            if before is not None:
                yield before
        elif "UNICODE" in name:
            last = value
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            last = memo.get(value)


def _opcodes(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                inner = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
                content = archive.read(inner)
            yield from ((code.name, value) for code, value, _ in pickletools.genops(content))
            return
        with file.open("rb") as opened:
            for _ in range(4):  # before the zip archives: a magic number, a protocol, the system, then what was saved
                yield from ((code.name, value) for code, value, _ in pickletools.genops(opened))
    except (ValueError, StopIteration, zipfile.BadZipFile, OSError):
        return  # damaged: what could be read is all that is told
