"""Twins: the same scene with one thing changed in one attribute, so that whoever tells them apart has looked at that thing.

Scenes drawn at random differ in so much that a rough look finds the right one among hundreds; a twin differs in one colour, shape,
size, texture or place, and its full caption says which. All else is the same, the pixels of the background included.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from fna.data.scenes import COLOURS, SHAPES, SIDES, SIZES, TEXTURES, Scene, Thing, coordinate, fits

CHANGES = ("colour", "shape", "size", "texture", "place")
PLACES_TRIED = 12  # of each thing


def twin(scene: Scene) -> Scene:
    """The scene with one thing changed, again one that `make_scene` could have drawn; the change goes round CHANGES with the seed.

    Where no thing can be changed so (a larger one would cover another), the next change is taken. Raises ValueError where none can.
    """
    random = Random(scene.seed * 1_000_003 + 101)
    clutter = tuple(thing.colour for thing in scene.things)  # the background stays as it is
    start = scene.seed % len(CHANGES)
    for change in CHANGES[start:] + CHANGES[:start]:
        others = [
            replace(scene, things=(*scene.things[:i], other, *scene.things[i + 1 :]), clutter=clutter)
            for i, thing in enumerate(scene.things)
            for other in _changed(scene, thing, change, random)
        ]
        random.shuffle(others)
        for other in others:
            if fits(other.things):
                return other
    raise ValueError(f"scene {scene.seed} has no twin")


def difference(scene: Scene, other: Scene) -> str:
    """Which of CHANGES makes `other` out of `scene`."""
    return next(
        change
        for one, two in zip(scene.things, other.things, strict=True)
        for change in CHANGES
        if getattr(one, change) != getattr(two, change)
    )


def _changed(scene: Scene, thing: Thing, change: str, random: Random) -> Iterator[Thing]:
    """`thing` with every other value of one attribute; a size also draws its side, and places are tried at random."""
    if change == "colour":  # a scene has two colours; of one that has one, any other is the second
        found = {other.colour for other in scene.things}
        known = COLOURS if len(found) == 1 else sorted(found)
        yield from (replace(thing, colour=colour) for colour in known if colour != thing.colour)
    elif change == "shape":
        yield from (replace(thing, shape=shape) for shape in SHAPES if shape != thing.shape)
    elif change == "size":
        yield from (replace(thing, size=size, side=random.uniform(*SIDES[size])) for size in SIZES if size != thing.size)
    elif change == "texture":
        yield from (replace(thing, texture=texture) for texture in TEXTURES if texture != thing.texture)
    else:
        tried = [replace(thing, x=coordinate(random, thing.side), y=coordinate(random, thing.side)) for _ in range(PLACES_TRIED)]
        yield from (moved for moved in tried if moved.cell != thing.cell)
