"""What an error comes to for the user: one line for what can be mended, a traceback in the job's folder for a bug."""

from __future__ import annotations

import errno
import re
import traceback
from contextlib import suppress
from pathlib import Path

from fna.errors import UserError, is_memory
from fna.records import NO_ROOM
from fna.runner.refusals import REFUSALS, one_line

READER_ENDED = re.compile(r"DataLoader worker .*?(killed|exited)[^.]*")
NO_PLACE = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EROFS})


def line(error: BaseException) -> str:
    """An error in one line, with what was noted of where it comes from."""
    said = " ".join(str(error).split()) or type(error).__name__
    notes = getattr(error, "__notes__", ())
    return f"{type(error).__name__}: {said} ({', '.join(notes)})" if notes else said


def mendable(error: Exception | SystemExit) -> Exception:
    """The `UserError` for what the limits of the machine made fail, memory or disk, what the config says, or somebody's ``exit()``;
    others as they are."""
    if isinstance(error, SystemExit):
        return UserError(f"{_left_at(error)}: ends the program (exit status {error.code}); return a value or raise an error there.")
    if isinstance(error, REFUSALS) and not isinstance(error, UserError):
        return UserError(one_line(error))
    if is_memory(error):
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = lines[-1 if lines[0].startswith("Caught ") else 0]  # of a loading process torch puts the trace before it
        return UserError(f"out of memory ({said}); give a smaller batch_size or image_size (for the cost: timing.batch_size).")
    if isinstance(error, RuntimeError) and (ended := READER_ENDED.search(str(error))):  # which torch raises wherever the run is
        return UserError(
            f"the system ended a process that reads images ({ended[0]}), mostly for want of memory; run it again (finished rows "
            "stay) with fewer workers or a smaller batch_size; workers=0 reads in this process."
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        place = error.filename or "the folder of the run (hydra.run.dir)"
        return UserError(f"{place}: cannot be written ({error.strerror}); free some room there.")
    if isinstance(error, PermissionError) and error.filename:
        return UserError(f"{error.filename}: {error.strerror}; give yourself the right to it, or name another place.")
    if isinstance(error, OSError) and error.errno in NO_PLACE and error.filename:
        return UserError(f"{error.filename}: {error.strerror}; name another place.")
    return error


def _left_at(error: SystemExit) -> str:
    """The file and line that called ``exit``, which Python's own ``exit()`` does in a file of its own."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "_sitebuiltins" not in frame.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "a part of the run"


def keep_traceback(error: BaseException, folder: Path) -> None:
    """Keep where a bug is in ``traceback.txt``; what a user can mend is told in one line."""
    if not isinstance(error, UserError) and folder.is_dir():
        with suppress(OSError):  # the error itself is told, room or no room
            (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
