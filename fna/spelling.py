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


def _spelling(name: str) -> str:
    """A name without what tables write otherwise: FNA+ is fna_plus, FNA local fna_local, Nyströmformer nystromformer."""
    letters = unicodedata.normalize("NFKD", name.replace("+", "_plus")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[\W_]+", "_", letters).strip("_")
