"""The pictures of a run folder: gallery.json, the landmarks on the token grid, and each picture embedded once."""

from __future__ import annotations

import base64
import difflib
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 448  # pixels of an embedded picture's longer side: sharp on a phone, small in the file


@dataclass(frozen=True)
class Picture:
    """An embedded picture: the id that ``<use>`` refers to, and its size."""

    id: str
    width: int
    height: int


@dataclass
class Album:
    """Pictures by content, so that a sweep that shows one photograph nine times carries it once."""

    sources: dict[str, str] = field(default_factory=dict)

    def add(self, folder: Path, name: Any) -> Picture | None:
        """Embed a picture that lies in ``folder``; None if it is not there, not a picture, or outside the folder."""
        path = (folder / str(name)).resolve()
        if not path.is_relative_to(folder.resolve()):
            return None
        try:
            with Image.open(path) as image:
                small = image.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError):
            return None
        small.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=88)
        key = f"picture-{hashlib.sha256(buffer.getvalue()).hexdigest()[:12]}"
        self.sources[key] = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return Picture(key, *small.size)


@dataclass(frozen=True)
class Landmarked:
    """A picture with landmark tokens: ``outline`` and ``veil`` are SVG paths on a grid of unit squares."""

    picture: Picture
    key: str
    rows: int
    columns: int
    outline: str
    veil: str
    caption: str


@dataclass(frozen=True)
class Flip:
    """A sample on which full and variant chose differently; ``asked``: what they chose, where it is no class and no text."""

    picture: Picture | None
    key: str
    truth: str
    full: str
    variant: str
    better: str
    asked: str = ""

    @property
    def full_words(self) -> list[tuple[str, bool]]:
        """`marked` beside the truth, or the other's answer where there is none."""
        return marked(self.full, self.truth or self.variant)

    @property
    def variant_words(self) -> list[tuple[str, bool]]:
        """The same of the variant's answer."""
        return marked(self.variant, self.truth or self.full)


def marked(text: str, beside: str) -> list[tuple[str, bool]]:
    """``text`` in pieces, with whether ``beside`` says something else there.

    Texts that have less than half of their words in common are one piece, unmarked: long captions often differ in a word that
    nobody finds, short labels do in all.
    """
    mine, theirs = text.split(), beside.split()
    match = difflib.SequenceMatcher(None, theirs, mine, autojunk=False)
    if match.ratio() < 0.5:
        return [(text, False)]
    return [(" ".join(mine[first:last]), kind != "equal") for kind, _, _, first, last in match.get_opcodes() if last > first]


@dataclass(frozen=True)
class Gallery:
    """What gallery.json holds that a page can show; ``problem`` says why there is less than there should be."""

    landmarks: Sequence[Landmarked] = ()
    flips: Sequence[Flip] = ()
    problem: str | None = None


def read_gallery(folder: Path, album: Album, limit: int | None = None) -> Gallery:
    """Read ``gallery.json`` in a run folder, if there is one; sections that this version does not know are left alone."""
    path = folder / "gallery.json"
    if not path.exists():
        return Gallery()
    try:
        sections = json.loads(path.read_text(encoding="utf-8"))
        landmarks = [_landmarked(folder, album, item) for item in sections.get("landmarks", [])[:limit]]
        flips = [_flip(folder, album, item) for item in sections.get("flips", [])[:limit]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Gallery(problem=f"gallery.json cannot be read: {str(error).partition(chr(10))[0]}")
    shown = [item for item in landmarks if item is not None]
    lost = len(landmarks) - len(shown)
    return Gallery(shown, flips, f"{lost} pictures of gallery.json are not there" if lost else None)


def grid_cells(index: Sequence[int], prefix: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """(row, column) of each token that lies on the grid; prefix and suffix tokens do not."""
    places = sorted({int(token) - prefix for token in index})
    return [divmod(place, columns) for place in places if 0 <= place < rows * columns]


def _landmarked(folder: Path, album: Album, item: dict[str, Any]) -> Landmarked | None:
    """None where the picture is missing; a picture without a grid has nothing drawn on it."""
    picture = album.add(folder, item["image"])
    if picture is None:
        return None
    rows, columns = item.get("grid") or (1, 1)
    prefix = int(item.get("prefix", 0))
    index = item.get("index") or []
    cells = grid_cells(index, prefix, rows, columns) if item.get("grid") else []
    outline = "".join(f"M{column} {row}h1v1h-1z" for row, column in cells)
    veil = f"M0 0h{columns}v{rows}h-{columns}z{outline}" if cells else ""
    caption = f"{len(cells)} of {rows * columns:,} tokens" if cells else "no token of the picture"
    kept = len({token for token in index if token < prefix})
    caption += "" if not kept else ", and CLS" if prefix == 1 else f", and {kept} of {prefix} before them (CLS, registers)"
    return Landmarked(picture, str(item.get("key", "")), rows, columns, outline, veil, caption)


def _flip(folder: Path, album: Album, item: dict[str, Any]) -> Flip:
    words = [str(item.get(key, "")) for key in ("key", "truth", "full", "variant", "better", "asked")]
    return Flip(album.add(folder, item.get("image")), *words)
