"""What may have been meant by a word that there is not."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of ``known`` that may have been meant, as a question before a list; "" where none is near."""
    spelt = {_spelling(option): option for option in known}
    near = difflib.get_close_matches(_spelling(name), [*spelt], 1)
    return f"did you mean {spelt[near[0]]}? " if near else ""


def begins_alike(name: str, known: Iterable[str]) -> list[str]:
    """The one of ``known``, long names of words (vit_tiny_patch16_224), that may be meant by one that may be cut short (vit_tny).

    As many words of each are held against it as it has itself; of those that are as near the shortest one, none where none is near.
    """
    words = name.count("_") + 1
    starts: dict[str, str] = {}
    for option in sorted(known, key=lambda one: (len(one), one)):
        starts.setdefault("_".join(option.split("_")[:words]), option)
    first = name.partition("_")[0]
    near = difflib.get_close_matches(name, [start for start in starts if start.partition("_")[0] == first], 1, 0.7)
    return [starts[start] for start in near or difflib.get_close_matches(name, starts, 1)]


def _spelling(name: str) -> str:
    """A name without what tables write otherwise: FNA+ is fna_plus, FNA local fna_local, Nyströmformer nystromformer."""
    letters = unicodedata.normalize("NFKD", name.replace("+", "_plus")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[\W_]+", "_", letters).strip("_")
