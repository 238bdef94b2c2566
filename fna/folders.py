"""Where things that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path

from fna.errors import UserError

ANOTHER = "give another folder with FNA_CACHE=PATH"  # what to do where nothing can be written there


class NoHome(UserError):
    """A user without a home folder, for whom nothing is kept."""


def cache_folder() -> Path:
    """$FNA_CACHE, else fna in the user's cache folder. `NoHome` for a user without a home."""
    own = os.environ.get("FNA_CACHE")
    try:
        return Path(own).expanduser() if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fna"
    except RuntimeError as error:
        raise NoHome("there is no home folder to keep things in; name another with FNA_CACHE=FOLDER.") from error


def check_cache() -> None:
    """Raise `UserError` where a link on the way to the cache folder leads nowhere.

    Its disk may not be mounted: what is made in its place fills another one, and is gone once it is. A user without a home passes.
    """
    try:
        folder = cache_folder()
    except NoHome:
        return
    broken = [part for part in (*reversed(folder.parents), folder) if part.is_symlink() and not os.path.exists(part)]
    if broken:
        raise UserError(
            f"fna's cache: {broken[0]} is a link to {os.path.realpath(broken[0])}, which is not there (a disk that is not "
            f"mounted?); bring it back, make that folder, or {ANOTHER}."
        )
