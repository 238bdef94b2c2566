"""Label maps on the page: what ``gallery.json`` says under "segments"."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fna.report.pictures import Album, Picture

MAPS = ("image", "truth", "full", "variant", "differs")
COLOUR = re.compile("#[0-9a-f]{6}")


@dataclass(frozen=True)
class Mapped:
    """Label maps of one image: pictures by what they show, how alike full and variant are, classes with their colours."""

    key: str
    pictures: Sequence[tuple[str, Picture]]
    alike: str
    classes: Sequence[tuple[str, str]]


def read_maps(folder: Path, album: Album, limit: int | None = None) -> list[Mapped]:
    """The label maps in a run folder; none where there is no such section or it cannot be read."""
    try:
        sections = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
        return [_mapped(folder, album, item) for item in sections.get("segments", [])[:limit]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _mapped(folder: Path, album: Album, item: dict[str, Any]) -> Mapped:
    found = [(name, album.add(folder, item.get(name))) for name in MAPS]
    pictures = [(name, picture) for name, picture in found if picture is not None]
    classes = [(str(name), colour) for name, colour in item.get("classes", []) if COLOUR.fullmatch(colour)]
    return Mapped(str(item.get("key", "")), pictures, f"{float(item['alike']):.1f} %", classes)
