"""COCO's JSON as COCO and other tools write it: pictures and their files, categories, what annotates which picture.

Tools differ in what they leave out and in how they name things; what has one meaning only is read. Ids may be numbers or names
(`Entry.ident`). Files are named by ``file_name`` or, in LVIS, by ``coco_url``; the name may be a path of another machine.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fna.data.elsewhere import elsewhere, located, written
from fna.data.entries import Entry
from fna.data.files import UNREADABLE
from fna.data.pictures import exchanged
from fna.errors import UserError
from fna.values import counted

Size = tuple[int, int]  # rows, columns


@dataclass(frozen=True)
class Picture:
    """An entry of ``images``; ``name`` as it stands there."""

    ident: str
    name: str
    path: Path
    entry: Entry

    def size(self) -> Size | None:
        """Rows and columns by the image file, None where it cannot be read. Raises `UserError` where the annotations differ."""
        if not self.path.is_file():  # a pipe would be waited for
            return None
        try:
            with Image.open(self.path) as image:
                columns, rows = image.size
        except UNREADABLE:
            return None
        said = self.entry.whole("height", 0) or rows, self.entry.whole("width", 0) or columns  # tools write 0 for unknown
        if said != (rows, columns):
            differs = f"{said[1]}x{said[0]}, but {self.path} is {columns}x{rows}"
            raise UserError(
                f"{self.entry.where}: {differs}{exchanged(said, (rows, columns)) or '; give the images that were annotated'}."
            )
        return rows, columns


def pictures(content: Entry, folder: Path, root: Path) -> tuple[dict[str, Picture], list[str]]:
    """id -> picture in the file's order, looked for in ``folder`` and ``root``; and what to note of where they were found.

    Raises `UserError` for one that is listed twice, and for one that is found in another split than it is named with.
    """
    found: dict[str, Picture] = {}
    places: dict[str, str] = {}
    for entry in content.entries("images"):
        ident = entry.ident("id")
        name = entry.text("file_name", None) or entry.text("coco_url", None) or entry.text("file_name")
        if not name:
            raise entry.wrong("file_name", "the name of a file")
        picture = Picture(ident, name, located(entry, name, folder, root), entry)
        place = os.path.normpath(picture.path)
        if ident in found:
            raise UserError(f"{entry.where}: id {ident} is that of {found[ident].name} too; list each image once.")
        if place in places:
            other = found[places[place]].name
            if written(other) != written(name):
                raise UserError(
                    f"{entry.where}: {name} and {other} both come to {picture.path}; give the images in the folders that are named."
                )
            raise UserError(f"{entry.where}: {name} is listed twice, with id {places[place]} and {ident}; list each image once.")
        found[ident], places[place] = picture, ident
    return found, elsewhere(((each.entry.where, each.name, each.path) for each in found.values()), folder, root)


def by_picture(content: Entry, known: dict[str, Picture]) -> tuple[dict[str, list[Entry]], list[str]]:
    """Annotations of each picture by its id, in the file's order; and what to note of those that belong to none.

    Raises `UserError` where annotations belong to none of the pictures, all of them.
    """
    found: dict[str, list[Entry]] = defaultdict(list)
    entries = content.entries("annotations")
    stray = [entry for entry in entries if entry.ident("image_id") not in known]
    if stray and len(stray) == len(entries):
        ident = stray[0].ident("image_id")
        raise UserError(f"{stray[0].where}: image_id {ident} is none of the images, nor are the others; give ids that match.")
    for entry in entries:
        found[entry.ident("image_id")].append(entry)
    return found, [f"{counted(len(stray), 'annotation')} of images that are not listed left out"] * bool(stray)


def category_names(content: Entry) -> dict[str, str]:
    """id -> name. Raises `UserError` where there is none, or two for one id."""
    names: dict[str, str] = {}
    for entry in content.entries("categories"):
        ident, name = entry.ident("id"), entry.text("name")
        if not name.strip():
            raise entry.wrong("name", "a name")
        if names.setdefault(ident, name) != name:
            raise UserError(f"{entry.where}: id {ident} is that of {names[ident]} too; give {name} another.")
    if not names:
        raise UserError(f"{content.where}: holds no categories.")
    return names
