"""Where things that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path

from fna.errors import UserError

ANOTHER = "give another folder with FNA_CACHE=PATH"  # what to do where nothing can be written there


def cache_folder() -> Path:
    """$FNA_CACHE, else fna in the user's cache folder. `UserError` for a user without a home."""
    own = os.environ.get("FNA_CACHE")
    try:
        return Path(own).expanduser() if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fna"
    except RuntimeError as error:
        raise UserError("there is no home folder to keep things in; name another with FNA_CACHE=FOLDER.") from error
