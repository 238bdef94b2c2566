"""Files that are there whole or not at all, and small records that tell when they are damaged.

A record is JSON that carries a digest of its own content and of its file's name: one that was cut, changed in any byte, or copied
over another's name is missing, and whoever reads it makes it again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import tempfile
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fna.errors import UserError

SEAL = "sealed_with"  # the last key of a record: its digest
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_WAY = frozenset({errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # what a link that leads nowhere gives
AT_ONCE = 1 << 22  # bytes read at a time


def write_atomic(path: Path, data: bytes) -> None:
    """Write by a temporary file in the same folder and a rename; a reader sees the old file or the new one, never half.

    Raises `UserError` with the path where that cannot be done; nothing of it is left behind then.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritten(path, error) from error
        raise


def refuse_mark(folder: Path, reader: str) -> None:
    """Raise `UserError` for a JSON file with a byte-order mark in a folder that another library reads: those know none, and of
    some files (generation_config.json) they take their own defaults without a word."""
    for file in sorted(file for file in folder.glob("*.json") if file.is_file()):
        with file.open("rb") as opened:
            start = opened.read(len(BOM_UTF8))
        if start == BOM_UTF8:
            raise UserError(f"{file}: begins with a byte-order mark, which {reader} does not read; save it as UTF-8 without one.")


# What the columns of a list of classes are called in a head line, in small letters and single words.
HEADS = frozenset(
    {"id", "class", "classes", "label", "labels", "folder", "directory", "wnid", "synset", "name", "names", "category", "index"}
    | {f"{of} {what}" for of in ("class", "label", "folder", "category", "synset") for what in ("id", "name")}
    | {"classid", "classname", "wordnet id", "description", "words"}
)


def is_head(ident: str, name: str) -> bool:
    """Whether the first line of a list of classes says what its columns are, and names no class."""
    return all(re.sub(r"[\W_]+", " ", said).strip().lower() in HEADS for said in (ident, name))


def refuse_csv(lines: Sequence[str], path: str | Path) -> None:
    """Raise `UserError` for a list of classes whose columns are divided as spreadsheets save them: each line would be one id."""
    for sign in ";,":
        told = sign == ";" or Path(path).suffix.lower() == ".csv"  # names have commas in them
        if told and lines and all(sign in line and "\t" not in line for line in lines):
            raise UserError(
                f"{path}: its columns are divided by {sign!r}; save it as text divided by tabs (TSV), the id and name of a class "
                "in each line, and no head line."
            )


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


def unwritten(path: Path, error: OSError, where: str = "choose another folder") -> UserError:
    """The one line for what could not be written; ``where``: how another place is given."""
    remedy = "free some room there" if error.errno in NO_ROOM else "mend that"
    reason = "a file is there, no folder" if error.errno == errno.EEXIST else error.strerror or error
    if error.errno in NO_WAY:
        reason = _broken_link(path) or reason
    return UserError(f"{path}: cannot be written ({reason}); {remedy} or {where}.")


def _broken_link(path: Path) -> str:
    """The link on the way to ``path`` that leads nowhere, in words; empty where there is none."""
    broken = [part for part in (*reversed(path.parents), path) if part.is_symlink() and not os.path.exists(part)]
    return f"{broken[0]} is a link to {os.path.realpath(broken[0])}, which is not there" if broken else ""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Store plain data; what JSON cannot say is stored as text, and keys as JSON has them. Raises `UserError` as `write_atomic`."""
    plain = json.loads(json.dumps(content, default=str))
    make_way(path)
    write_atomic(path, _sealed(path.name, plain))


def read_record(path: Path) -> dict[str, Any] | None:
    """What `write_record` stored under this very name, or None: no file, no file of ours, or one that has changed since."""
    try:
        data = regular(path).read_bytes()
        content = json.loads(data)
        del content[SEAL]
        whole = _sealed(path.name, content) == data  # every byte, blanks too
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return content if whole else None


def _sealed(name: str, content: Mapping[str, Any]) -> bytes:
    seal = hashlib.sha256(f"{name}\n{json.dumps(content)}".encode()).hexdigest()
    return json.dumps({**content, SEAL: seal}, indent=1).encode()


def regular(path: Path) -> Path:
    """``path`` itself. Raises `OSError` for a pipe, which would be waited for, and for a device, which may never end."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, no file", str(path))
    return path


def file_digest(path: Path, length: int | None = None) -> Any:
    """A running sha256 of the first ``length`` bytes of a file, None: of all; OSError where it cannot be read.

    Read, not mapped: of a file that is cut meanwhile a mapping would end the process.
    """
    total, left = hashlib.sha256(), length
    with regular(path).open("rb") as file:
        while piece := file.read(AT_ONCE if left is None else min(AT_ONCE, left)):
            total.update(piece)
            left = None if left is None else left - len(piece)
    return total


def make_way(path: Path) -> None:
    """Move a folder that lies where a file of ours belongs out of the way, its content kept; an empty one goes."""
    if not path.is_dir() or path.is_symlink():
        return
    try:
        with suppress(OSError):  # not empty
            path.rmdir()
        if path.is_dir():
            path.rename(path.with_name(f"{path.name}.moved-{time.time_ns()}"))
    except OSError as error:
        raise unwritten(path, error) from error


def kept(path: Path | None, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The record under ``path``, or what ``make`` gives, stored there by one process at a time; None: made anew, stored nowhere.

    As JSON has it in each case: keys are text.
    """
    with only_one(path) if path is not None else nullcontext():
        found = None if path is None else read_record(path)
        if found is None:
            found = json.loads(json.dumps(make(), default=str))
            if path is not None:
                write_record(path, found)
    return found


@contextmanager
def only_one(path: Path, making: str = "") -> Iterator[None]:
    """Of all processes that make ``path`` one at a time comes in; the others wait and say so, since a suspended one never ends.

    ``making``: what is made, where that says more than the path.

    The lock is the system's (flock) on a hidden file beside ``path``: it goes with its holder, however that ends. A network file
    system hands it on to its server or, where it knows no locks, does without: then two may make the same thing, each whole.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with ExitStack() as held:
        try:
            held.enter_context(lock.acquire(timeout=0))
        except Timeout:
            from fna.progress import say  # rich, without which the library alone is installed

            say(f"{making or path}: another process is making it, waiting; if one was suspended (Ctrl-Z), fg goes on with it")
            held.enter_context(lock.acquire())
        except (OSError, NotImplementedError):  # no locks there, or no folder: whoever writes next says so
            pass
        yield
