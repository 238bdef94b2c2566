"""Sections of ``gallery.json`` that a task brought and this package knows nothing of: pictures and texts under their own name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fna.report.pictures import Album, Picture

KNOWN = frozenset({"landmarks", "flips", "segments", "tokens", "contenders"})  # shown by rooms of their own


@dataclass(frozen=True)
class Exhibit:
    """A section: its name, and its entries, each a picture, a text, or both."""

    title: str
    entries: Sequence[tuple[Picture | None, str]]


def read_exhibits(folder: Path, album: Album, limit: int | None = None) -> list[Exhibit]:
    """The further sections in a run folder; none where there is no such file or it cannot be read."""
    try:
        sections = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
        further = {name: entries for name, entries in sections.items() if name not in KNOWN and entries}
        return [
            Exhibit(name, [(album.add(folder, item.get("image")), str(item.get("text", ""))) for item in entries[:limit]])
            for name, entries in further.items()
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
