"""COCO's instances ready to be painted, and what makes one doubt that they were drawn on these very images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from fna.data.coco_format import Picture, Size
from fna.data.entries import Entry
from fna.data.label_values import IGNORE
from fna.data.run_lengths import past_edges, run_lengths, scraps
from fna.errors import UserError
from fna.values import counted

Array = np.ndarray
PERCENTS = 100  # what coordinates in percent of the sides go up to
SLOP = 2  # pixels that a hand may draw past a picture's edge
FAR = 0.02  # share of a picture's longer side past which no hand draws
CROWDS = 0.05  # share of masks, above which they are no crowds as COCO has them (1 %)
EMPTY, MANY = 0.25, 5  # share of the images' sides that no mask reaches into, on one hand only; images from which on that is odd


@dataclass(frozen=True)
class Drawing:
    """An image's masks ready to paint, (class, run-length code) in the order of painting; ``size`` None where it is unreadable."""

    picture: Picture
    size: Size | None
    masks: list[tuple[int, dict[str, Any]]]
    past: list[float]  # pixels that each mask reaches out of the image
    scraps: Mapping[str, int] = field(default_factory=dict)  # polygons without three points, by the entry that holds some

    def paint(self, empty: int) -> Array:
        """int64 ``[H, W]``: classes, 255 for crowds, ``empty`` elsewhere."""
        if self.size is None:
            raise UserError(f"{self.picture.path}: cannot be read as an image.")
        labels = np.full(self.size, empty)
        for label, code in self.masks:
            labels[rle.decode(code).astype(bool)] = label
        return labels


def drawing(picture: Picture, told: Sequence[Entry], places: Mapping[str, int]) -> Drawing:
    """What is painted of one image: crowds first, then larger before smaller. Area is counted where it is not given."""
    size = picture.size()
    if size is None:  # reading it will skip and count it
        return Drawing(picture, None, [], [])
    masks = []
    for entry in told:
        category = entry.ident("category_id")
        if category not in places:
            raise UserError(f"{entry.where}: category_id {category} is none of the categories.")
        code, crowd = run_lengths(entry, size), entry.flag("iscrowd")
        area = entry.number("area", None)
        area = float(rle.area(code)) if area is None or area <= 0 else area  # tools write 0 for unknown
        masks.append((crowd, area, IGNORE if crowd else places[category], code))
    masks.sort(key=lambda mask: mask[:2], reverse=True)
    left = {entry.where: count for entry in told if (count := scraps(entry))}
    return Drawing(picture, size, [mask[2:] for mask in masks], [past_edges(entry, size) for entry in told], left)


def crowds(told: Iterable[Entry], names: Mapping[str, str]) -> list[str]:
    """A note of masks or segments marked ``iscrowd``, which are ignored, where they are many or all that a category has.

    ``names``: of the categories by id. CVAT's exporter marks every mask that is no polygon so.
    """
    marked, all_of = Counter[str](), Counter[str]()
    for entry in told:
        name = names.get(entry.ident("category_id"), "")
        all_of[name] += 1
        marked[name] += entry.flag("iscrowd")
    only = [name for name in marked if marked[name] == all_of[name] >= MANY]
    if not only and marked.total() <= CROWDS * all_of.total():
        return []
    lost = f", all of {', '.join(only[:3])}{', ...' * (len(only) > 3)} among them" if only else ""
    return [
        f"{marked.total()} of {counted(all_of.total(), 'mask')} are marked iscrowd, whose pixels are ignored{lost}: CVAT marks "
        "masks of its brush so; set iscrowd to 0 where they are objects"
    ]


def doubts(file: Path, drawn: Mapping[str, Drawing]) -> list[str]:
    """Notes of masks that may be of other images or in other units. Raises `UserError` where they must be."""
    return [*_specks(file, drawn), *(_percents(file, drawn) or _in_a_corner(file, drawn)), *_past_edges(file, drawn)]


def _specks(file: Path, drawn: Mapping[str, Drawing]) -> list[str]:
    """A note of masks that cover no pixel. Raises `UserError` where none covers two, as those of coordinates in fractions."""
    # one by one: pycocotools counts a list of masks in 8 bits
    areas = [int(rle.area(code)) for drawing in drawn.values() for _, code in drawing.masks]
    left = {where: count for drawing in drawn.values() for where, count in drawing.scraps.items()}
    if left and len(left) == len(areas) and not any(areas):
        raise UserError(f"{next(iter(left))}: has no polygon of three points, nor has any other; a box alone is no mask.")
    if areas and max(areas) <= 1:
        raise UserError(
            f"{file}: none of {len(areas)} masks covers more than a pixel; are its coordinates fractions? They must be pixels."
        )
    empty = areas.count(0)
    notes = [f"{empty} of {len(areas)} masks cover no pixel"] * bool(empty)
    if left:
        many = counted(sum(left.values()), "polygon")
        notes.append(f"{many} of fewer than three points left out (first: {next(iter(left))}): nothing is painted for a box alone")
    return notes


def _past_edges(file: Path, drawn: Mapping[str, Drawing]) -> list[str]:
    """A note of masks that reach out of their images. Raises `UserError` where those of most images do, and by far."""
    held = [drawing for drawing in drawn.values() if drawing.size and drawing.masks]
    past = [reach for drawing in held for reach in drawing.past if reach > SLOP]
    if not past:
        return []
    first = next(drawing for drawing in held if max(drawing.past) > SLOP)
    far = sum(max(drawing.past) > max(SLOP, FAR * max(drawing.size)) for drawing in held if drawing.size)
    said = (
        f"of {sum(len(drawing.masks) for drawing in held)} masks {len(past)} reach out of their images (first: by "
        f"{max(first.past):.0f} pixels out of {first.picture.name}): were the images resized?"
    )
    if 2 * far > len(held):
        raise UserError(f"{file}: {said} Give the images that were annotated, or scale the polygons with them.")
    return [f"{said} What lies outside is cut off"]


def _percents(file: Path, drawn: Mapping[str, Drawing]) -> list[str]:
    """A note of masks that all lie in the corner where percents of the image's sides would put them."""
    large = all(min(drawing.size) >= 2 * PERCENTS for drawing in drawn.values() if drawing.size)
    boxes = [rle.toBbox(code) for drawing in drawn.values() for _, code in drawing.masks]
    if not large or len(boxes) < 2 or max(max(left + wide, top + high) for left, top, wide, high in boxes) > PERCENTS:
        return []
    return [
        f"{file.name}: all {len(boxes)} masks lie within {PERCENTS} pixels of the upper left corner of larger images; are their "
        "coordinates percents of its sides? They must be pixels"
    ]


def _in_a_corner(file: Path, drawn: Mapping[str, Drawing]) -> list[str]:
    """A note of masks that reach the left and upper edges but far from the others, as those of images that were enlarged since."""
    if sum(bool(each.masks) for each in drawn.values()) < MANY:
        return []
    edges = np.array([box for each in drawn.values() if each.size for _, code in each.masks for box in _share(code, each.size)])
    if not len(edges):
        return []
    first, last = edges[:, :2].min(0), edges[:, 2:].max(0)
    if (1 - last < EMPTY).any() or (first > (1 - last) / 2).any():
        return []
    return [
        f"{file.name}: no mask reaches past {100 * last[0]:.0f} % of its image in width and {100 * last[1]:.0f} % in height, from "
        "the upper left corner on: were the images enlarged since? Polygons must be in pixels of these files"
    ]


def _share(code: dict[str, Any], size: Size) -> list[list[float]]:
    """The box of a mask, left, top, right and bottom, in shares of the image's sides; none of a mask without a pixel."""
    left, top, wide, high = rle.toBbox(code).tolist()
    rows, columns = size
    return [[left / columns, top / rows, (left + wide) / columns, (top + high) / rows]] * bool(wide)
