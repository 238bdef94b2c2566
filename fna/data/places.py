"""Names that are written in other characters and read the same: é as one (most of JSON) or as e and an accent (macOS)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize


def composed(name: str) -> str:
    """A name with each accent put into its letter (Unicode's form NFC), as names are to be compared."""
    return name if name.isascii() else normalize("NFC", name)


def existing(path: Path) -> Path:
    """``path``, or where it is not there the one that differs from it in how accents are written; ``path`` if there are two."""
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.relative_to(found).parts:
        inner = found / part
        if not os.path.lexists(inner):
            alike = _listed(str(found)).get(composed(part), ())
            if len(alike) != 1:
                return path
            inner = found / alike[0]
        found = inner
    return found


def by_name(names: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """Which of ``known`` each name is: the same, or the only one that differs from it in how accents are written.

    Names that are none of them, or may be two, are left out.
    """
    names, same = [*names], {*known}
    times = Counter(map(composed, known)) | Counter(map(composed, names))
    alike = {composed(name): name for name in known}
    found = {name: name if name in same else alike.get(composed(name)) for name in names}
    return {name: one for name, one in found.items() if one is not None and (name == one or times[composed(name)] == 1)}


def _listed(folder: str) -> Mapping[str, Sequence[str]]:
    try:
        return _by_form(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=16)
def _by_form(folder: str, changed: int) -> Mapping[str, Sequence[str]]:
    """The names in a folder by their composed form; ``changed``: when it was, so that a listing is read anew after that."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        found.setdefault(composed(name), []).append(name)
    return found
