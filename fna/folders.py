"""Where things that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$FNA_CACHE, else fna in the user's cache folder. `RuntimeError` for a user without a home."""
    own = os.environ.get("FNA_CACHE")
    return Path(own).expanduser() if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fna"
