"""What a command line leaves that was refused before anything ran: nothing."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from fna.runner.files import LOCK

HYDRAS = ".hydra"


def remove_bare(folder: Path) -> bool:
    """Remove a run folder in which nothing lies but our lock and what Hydra notes before a job; whether that was done.

    A folder that holds more, an earlier result in the same place for one, stays as it is.
    """
    with suppress(OSError):  # a place that cannot be read or emptied was not ours
        if {path.name for path in folder.iterdir()} <= {HYDRAS, LOCK}:
            shutil.rmtree(folder)
            return True
    return False
