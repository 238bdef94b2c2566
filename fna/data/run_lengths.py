"""COCO's three ways to write a mask, polygons, runs and compressed runs, as one: pycocotools' run-length code.

pycocotools trusts what it is given (a coordinate that is no number ends the process, a polygon of two points is read as a box,
and runs that stop early leave the rest to chance), so that all is checked here first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools import mask as rle

from fna.data.entries import Entry, is_number
from fna.errors import UserError

Size = tuple[int, int]  # rows, columns


def run_lengths(entry: Entry, size: Size) -> dict[str, Any]:
    """``entry``'s ``segmentation`` as a run-length code of an image of ``size``. Raises `UserError` naming it if malformed."""
    value = entry.fields.get("segmentation")
    if isinstance(value, Mapping):
        return _of_runs(entry, Entry(value, f"{entry.where}.segmentation"), size)
    if not value:
        raise UserError(f"{entry.where}: has no segmentation; a box alone is no mask.")
    if not isinstance(value, list):
        raise entry.wrong("segmentation", "polygons or run lengths")
    polygons = value if isinstance(value[0], list) else [value]  # VIA writes one polygon without the outer list
    for polygon in polygons:
        _check_polygon(entry, polygon, size)
    return dict(rle.merge(rle.frPyObjects(polygons, *size)))


def past_edges(entry: Entry, size: Size) -> float:
    """How far the polygons of an entry that `run_lengths` took reach out of an image of ``size``, in pixels; 0 for runs."""
    value = entry.fields.get("segmentation")
    if not isinstance(value, list):
        return 0
    polygons = value if isinstance(value[0], list) else [value]
    reach = ((min(line), max(line) - side) for each in polygons for line, side in ((each[::2], size[1]), (each[1::2], size[0])))
    return max((max(-low, high, 0) for low, high in reach), default=0)


def _check_polygon(entry: Entry, polygon: Any, size: Size) -> None:
    """x and y in turn, at least three points, none further outside the image than the image is large."""
    if not isinstance(polygon, list) or not all(is_number(value) for value in polygon):
        raise UserError(f"{entry.where}: segmentation holds {ascii(polygon)[:60]}; a list of numbers is needed for each polygon.")
    if len(polygon) < 6 or len(polygon) % 2:
        raise UserError(f"{entry.where}: a polygon of {len(polygon)} numbers; x and y of at least three points are needed.")
    far = max(size)
    if min(polygon) < -far or max(polygon) > 2 * far:
        raise UserError(
            f"{entry.where}: a polygon reaches from {min(polygon)} to {max(polygon)}, its image is {size[1]}x{size[0]}."
        )


def _of_runs(entry: Entry, value: Entry, size: Size) -> dict[str, Any]:
    """Runs of zeros and ones in turn, column by column, as numbers or compressed; they must cover the image."""
    counts, said = value.fields.get("counts"), value.fields.get("size")
    if said != list(size):
        raise UserError(f"{value.where}: size is {ascii(said)[:60]}, its image has {list(size)} rows and columns.")
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in runs):
        raise value.wrong("counts", "a list of run lengths or their compressed text")
    if sum(runs) != size[0] * size[1]:
        raise UserError(f"{value.where}: counts cover {sum(runs)} pixels of {size[0] * size[1]}.")
    return dict(rle.frPyObjects({"size": list(size), "counts": runs}, *size))


def _unpacked(text: str) -> Sequence[int] | None:
    """Run lengths from COCO's compressed text, None where it is none.

    Each number is written in characters of five bits, lowest first, above "0"; a sixth bit says that more follow, and the sign is
    the highest bit of the last. From the fourth on a number is the difference to the run before the last.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) // 16 << shift
            runs.append(number + runs[-2] if len(runs) > 2 else number)
            number = shift = 0
    return None if shift else runs
