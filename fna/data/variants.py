"""Variants of published label maps that another declaration would misread: recognised by name or by values, and refused.

Cityscapes comes as label ids and as train ids, ADE20K with 0 for "other" and shifted down by one, COCO-Stuff with and without
its gaps. Read as each other they give numbers, and wrong ones. Which options read the variant is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fna.errors import UserError

Array = np.ndarray
Colour = tuple[int, int, int]
VOID = 255
TRAIN_IDS = frozenset(range(19))  # Cityscapes' classes under their train ids
# file names that say what they hold and that are no class values at all
FOREIGN = {
    "SegmentationObject": "numbers of objects; the classes are in SegmentationClass",
    "instanceIds": "numbers of instances; the classes are in *_gtFine_labelIds.png",
    "instanceTrainIds": "numbers of instances; the classes are in *_gtFine_labelIds.png",
    "_color": "colours; the classes are in *_gtFine_labelIds.png",
}


@dataclass(frozen=True)
class Declared:
    """What is declared of label maps: the data set's name, the template of their paths, values ignored and absent."""

    name: str
    labels: str
    ignored: Set[int]
    absent: Set[int]


def refuse_by_name(declared: Declared) -> None:
    """Raise `UserError` where the template names another variant than the declaration reads."""
    for sign, held in FOREIGN.items():
        if sign in declared.labels:
            raise UserError(f"dataset.labels={declared.labels}: {sign} are {held}.")
    train_ids = "TrainIds" in declared.labels
    if declared.name == "cityscapes" and train_ids and declared.ignored != {VOID}:
        raise UserError(_train_ids(f"dataset.labels={declared.labels}"))
    if declared.name == "coco_stuff" and train_ids and declared.absent:
        raise UserError(_closed_up(f"dataset.labels={declared.labels}"))
    if declared.name == "ade20k" and "detectron2" in declared.labels and declared.ignored == {0}:
        raise UserError(_shifted(f"dataset.labels={declared.labels}"))


def refuse_by_values(declared: Declared, values: Set[int], place: str) -> None:
    """Raise `UserError` where ``values``, those of some of the label maps at ``place``, are those of another variant."""
    if declared.name == "cityscapes" and declared.ignored != {VOID}:
        skipped = values & declared.ignored & TRAIN_IDS
        if values <= TRAIN_IDS | {VOID} and len(skipped) >= (2 if VOID in values else 4):
            raise UserError(_train_ids(place))
    if declared.name == "cityscapes" and declared.ignored == {VOID} and values - TRAIN_IDS - {VOID}:
        value = max(values - {VOID})
        raise UserError(f"{place}: label value {value}: these are label ids, not train ids; leave dataset.ignored out.")
    if declared.name == "ade20k" and declared.ignored == {0} and VOID in values:
        raise UserError(_shifted(f"{place}: label value 255"))
    if declared.name == "ade20k" and declared.ignored == {VOID} and 150 in values:
        raise UserError(f"{place}: label value 150: these are not shifted down by one; leave dataset.ignored out.")
    if declared.name == "coco_stuff" and values & declared.absent:
        value = min(values & declared.absent)
        raise UserError(f"{place}: label value {value}, which no class of coco_stuff has; {_closed_up('these')[len('these: ') :]}")
    if declared.name == "coco_stuff" and not declared.absent and values & set(range(171, VOID)):
        raise UserError(f"{place}: label value {max(values - {VOID})}: these are no train ids; leave dataset.absent out.")


def refuse_colours(image: Image.Image, place: str) -> None:
    """Raise `UserError` for a picture whose pixels are colours and not class values, VOC's colours in another palette included."""
    if image.mode not in ("P", "L", "1", "I", "I;16"):
        voc = _voc_colours()
        small = image.convert("RGB").getcolors(maxcolors=257) or []
        known = small and all(colour in voc or colour == VOC_BORDER for _, colour in small)
        guess = " in PASCAL VOC's colours: give the palette PNGs of SegmentationClass" if known else ": write class values instead"
        raise UserError(f"{place}: a label map holds class values, this is a colour image ({image.mode}){guess}.")
    if image.mode == "P":
        palette = np.reshape(image.getpalette() or [], (-1, 3))
        used = [index for _, index in image.getcolors() or [] if isinstance(index, int) and index < len(palette)]
        voc = _voc_colours()
        colours = {index: (int(palette[index][0]), int(palette[index][1]), int(palette[index][2])) for index in used}
        moved = [index for index, colour in colours.items() if colour in voc and voc[colour] != index]
        if len(colours) > 1 and moved and all(colour in voc or colour == VOC_BORDER for colour in colours.values()):
            raise UserError(
                f"{place}: PASCAL VOC's colours under other numbers (colour of class {voc[colours[moved[0]]]} at {moved[0]}): "
                "it was saved again by a program that keeps colours only; give the original PNGs."
            )


def refuse_moved_colours(used: Mapping[Path, Array]) -> None:
    """Raise `UserError` where one palette colour stands for one value in one label map and for another in the next.

    ``used``: the values of some of the label maps. A program that keeps colours only numbers them anew in each file that it saves.
    """
    first: dict[Colour, tuple[int, Path]] = {}
    for file, values in used.items():
        for colour, value in _single_colours(file, values).items():
            other, place = first.setdefault(colour, (value, file))
            if other != value:
                raise UserError(
                    f"{file}: the colour {colour} is value {value} here and {other} in {place}: saved by a program that numbers "
                    "colours anew in each file; give the original PNGs, or class values as grey."
                )


def _single_colours(file: Path, values: Array) -> dict[Colour, int]:
    """Palette colours of the values that occur, but for those that two of them share."""
    with Image.open(file) as image:
        palette = image.getpalette() or [] if image.mode == "P" else []
    found: dict[Colour, list[int]] = {}
    for value in values.tolist():
        if 3 * value + 2 < len(palette):
            found.setdefault((palette[3 * value], palette[3 * value + 1], palette[3 * value + 2]), []).append(value)
    return {colour: held[0] for colour, held in found.items() if len(held) == 1}


VOC_BORDER = (224, 224, 192)


def _voc_colours() -> dict[tuple[int, int, int], int]:
    """Colour -> class of PASCAL VOC's palette: bits 0, 3, 6 of a class are red's highest, 1, 4, 7 green's, 2, 5, 8 blue's."""

    def channel(value: int, first: int) -> int:
        return sum(((value >> (first + 3 * place)) & 1) << (7 - place) for place in range(3))

    return {(channel(value, 0), channel(value, 1), channel(value, 2)): value for value in range(21)}


def _train_ids(place: str) -> str:
    return f"{place}: Cityscapes' train ids (0 to 18), not label ids; give 'dataset.ignored=[255]'."


def _shifted(place: str) -> str:
    return f"{place}: these are shifted down by one already; give 'dataset.ignored=[255]'."


def _closed_up(place: str) -> str:
    return f"{place}: train ids (0 to 170 without gaps)? Then give 'dataset.absent=[]'."
