"""What files hold, as sha256: read once, then remembered by path, size and times.

For every folder of data the cache folder keeps one file, ``contents/<sha256 of the folder's path>.json``: its own checksum in the
first line, then a JSON object of file name -> [size, mtime in ns, ctime in ns, sha256]. One that is damaged, or cannot be kept,
costs a second reading and nothing else. Several processes may write at once; the last one stands, what it lacks is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from fna.errors import UserError
from fna.folders import cache_folder
from fna.records import regular

Entry = list[int | str]  # size, mtime in ns, ctime in ns, sha256
SETTLED = 2.0  # seconds: a file younger than that may change again without another time stamp, so it is not remembered yet
READERS = 4  # files read at once
UNREADABLE = "unreadable"


def sha256s(paths: Iterable[Path]) -> dict[Path, str]:
    """sha256 of what each file holds; "unreadable" for what is there and cannot be read (a folder, a pipe, no permission).

    Raises `FileNotFoundError` for the first path that is not there.
    """
    folders: dict[str, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        folders[os.path.abspath(path.parent)].append(path)
    found: dict[Path, str] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for folder, inside in folders.items():
            found |= _of_folder(folder, inside, pool)
    return found


def _of_folder(folder: str, paths: list[Path], pool: ThreadPoolExecutor) -> dict[Path, str]:
    store = _place(folder)
    known = _read(store)
    stamps = {path: path.stat() for path in paths}
    signs = {path: (at.st_size, at.st_mtime_ns, at.st_ctime_ns) for path, at in stamps.items()}
    kept = {path: known.get(path.name, []) for path in paths}
    found = {path: str(entry[3]) for path, entry in kept.items() if tuple(entry[:3]) == signs[path]}
    unknown = [path for path in paths if path not in found]
    regular = [path for path in unknown if stat.S_ISREG(stamps[path].st_mode)]
    found |= dict.fromkeys(unknown, UNREADABLE)
    found |= dict(zip(regular, pool.map(_sha256, regular), strict=True))
    settled = (time.time() - SETTLED) * 1e9
    new: dict[str, Entry] = {
        path.name: [*signs[path], found[path]] for path in regular if found[path] != UNREADABLE and max(signs[path][1:]) < settled
    }
    if new and store is not None:
        _write(store, _read(store) | new)
    return found


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return UNREADABLE


def _place(folder: str) -> Path | None:
    try:
        return cache_folder() / "contents" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"
    except UserError:  # a user without a home
        return None


def _read(store: Path | None) -> dict[str, Entry]:
    """What is remembered; nothing where the file is missing, damaged or of another form."""
    if store is None:
        return {}
    try:
        checksum, _, text = regular(store).read_bytes().partition(b"\n")
    except OSError:
        return {}
    if hashlib.sha256(text).hexdigest().encode() != checksum:
        return {}
    known = json.loads(text)
    whole = isinstance(known, dict) and all(isinstance(entry, list) and len(entry) == 4 for entry in known.values())
    return known if whole else {}


def _write(store: Path, known: dict[str, Entry]) -> None:
    """Keep it, by a temporary file and a rename. Where that cannot be done (a full disk, no permission) nothing is remembered."""
    text = json.dumps(known).encode()
    temporary = None
    try:
        if store.is_dir():
            return
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=store.parent, prefix=f".{store.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        os.replace(temporary, store)
    except OSError:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
