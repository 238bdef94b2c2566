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
ENOUGH = 6  # numbers of a polygon that encloses something: x and y of three points


def run_lengths(entry: Entry, size: Size) -> dict[str, Any]:
    """``entry``'s ``segmentation`` as a run-length code of an image of ``size``. Raises `UserError` naming it if malformed."""
    value = entry.fields.get("segmentation")
    if isinstance(value, Mapping):
        return _of_runs(entry, Entry(value, f"{entry.where}.segmentation"), size)
    if value is None:
        raise UserError(f"{entry.where}: has no segmentation; a box alone is no mask.")
    if not isinstance(value, list):
        raise entry.wrong("segmentation", "polygons or run lengths")
    for polygon in _parts(entry):
        _check_polygon(entry, polygon, size)
    if not (polygons := _areas(entry)):
        return dict(rle.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size))
    return dict(rle.merge(rle.frPyObjects(polygons, *size)))


def past_edges(entry: Entry, size: Size) -> float:
    """How far the polygons of an entry that `run_lengths` took reach out of an image of ``size``, in pixels; 0 for runs."""
    sides = ((each[axis::2], size[1 - axis]) for each in _areas(entry) for axis in (0, 1))
    return max((max(-min(line), max(line) - side, 0) for line, side in sides), default=0)


def scraps(entry: Entry) -> int:
    """How many polygons of an entry that `run_lengths` took enclose nothing, having no point, one or two."""
    return len(_parts(entry)) - len(_areas(entry))


def _parts(entry: Entry) -> list[Any]:
    """The polygons of an entry, none for runs. VIA writes one without the outer list; an empty list is one without a point."""
    value = entry.fields.get("segmentation")
    if not isinstance(value, list):
        return []
    return value if value and isinstance(value[0], list) else [value]


def _areas(entry: Entry) -> list[list[float]]:
    """Those of them that enclose something. pycocotools takes one of two points for a box."""
    return [polygon for polygon in _parts(entry) if len(polygon) >= ENOUGH]


def _check_polygon(entry: Entry, polygon: Any, size: Size) -> None:
    """x and y in turn, none further outside the image than the image is large."""
    if not isinstance(polygon, list) or not all(is_number(value) for value in polygon):
        raise UserError(f"{entry.where}: segmentation holds {ascii(polygon)[:60]}; a list of numbers is needed for each polygon.")
    if len(polygon) % 2:
        raise UserError(f"{entry.where}: a polygon of {len(polygon)} numbers; x and y of each point are needed.")
    far = max(size)
    if polygon and (min(polygon) < -far or max(polygon) > 2 * far):
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
