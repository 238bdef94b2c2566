"""Images that are listed and not there: refused with what to do, or left out and counted (``dataset.missing``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from fna.data.files import FIT
from fna.values import counted

Missing = Literal["refuse", "skip"]


def left_out(images: Mapping[str, Path], missing: Missing) -> tuple[set[str], list[str]]:
    """Names of those that are left out, and a note of them: with ``missing`` "skip" what is not there, while anything is.

    Of the others a data set's digest refuses those that would be read, with `remedy`.
    """
    gone = _absent(images)
    if missing != "skip" or len(gone) == len(images) or not gone:
        return set(), []
    return {*gone}, [f"{len(gone)} of {counted(len(images), 'image')} left out: not there (first: {gone[0]})"]


def remedy(images: Mapping[str, Path]) -> str:
    """What to do about images that are listed and not there."""
    few = 2 * len(_absent(images)) < len(images)
    return f"{FIT}{'; dataset.missing=skip goes on without them' * few}"


def _absent(images: Mapping[str, Path]) -> list[str]:
    return [name for name, place in images.items() if not os.path.exists(place)]  # of too long a name `Path.exists` raises
