"""Words for scenes: five captions from terse to full, and false ones with attributes swapped between the things."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from random import Random

from fna.data.scenes import Scene, Thing

LEVELS = ("terse", "coloured", "related", "detailed", "full")
SWAPS: tuple[tuple[str, ...], ...] = (("colour",), ("texture",), ("size", "side"), ("shape",), ("x", "y"))


def article(words: str) -> str:
    """The words with "a" or "an"."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def brief(thing: Thing) -> str:
    """Colour and shape, which name a thing within its scene."""
    return f"{thing.colour} {thing.shape}"


def detailed(thing: Thing) -> str:
    """All four attributes."""
    return f"{thing.size} {thing.texture} {thing.colour} {thing.shape}"


def listing(items: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def relation(a: Thing, b: Thing) -> str:
    """Where `a` is as seen from `b`, along the axis that tells them apart best."""
    across, down = a.x - b.x, a.y - b.y
    if abs(across) >= abs(down):
        return "to the left of" if across < 0 else "to the right of"
    return "above" if down < 0 else "below"


def full_caption(scene: Scene) -> str:
    """Every thing with all attributes and its place, then one relation."""
    told = listing([f"{article(detailed(scene.things[i]))} {scene.things[i].place}" for i in scene.order])
    if len(scene.things) == 1:
        return told
    a, b = (scene.things[i] for i in scene.pair)
    return f"{told}, the {brief(a)} is {relation(a, b)} the {brief(b)}"


def captions(scene: Scene) -> tuple[str, str, str, str, str]:
    """Five captions in the order of LEVELS."""
    things = [scene.things[i] for i in scene.order]
    a, b = (scene.things[i] for i in scene.pair)
    related = article(brief(a)) if a is b else f"{article(brief(a))} {relation(a, b)} {article(brief(b))}"
    return (
        listing([article(thing.shape) for thing in things]),
        listing([article(brief(thing)) for thing in things]),
        related,
        listing([article(detailed(thing)) for thing in things]),
        full_caption(scene),
    )


def _told(scene: Scene) -> Counter[tuple[str, str]]:
    """What a full caption claims, whatever its order."""
    return Counter((detailed(thing), thing.place) for thing in scene.things)


def swap(scene: Scene, i: int, j: int, fields: tuple[str, ...]) -> Scene:
    """The scene with `fields` exchanged between things i and j."""
    a, b = scene.things[i], scene.things[j]
    things = list(scene.things)
    things[i] = replace(a, **{field: getattr(b, field) for field in fields})
    things[j] = replace(b, **{field: getattr(a, field) for field in fields})
    return replace(scene, things=tuple(things))


def swapped_captions(scene: Scene, count: int, seed: int = 0) -> list[str]:
    """`count` distinct full captions, same words and order of telling, each false by exchanged attributes.

    Single exchanges first, drawn at random; where a scene has too few, two exchanges one after the other.
    """
    random = Random(scene.seed * 97 + seed)
    truth = _told(scene)
    moves = [(i, j, fields) for i, j in combinations(range(len(scene.things)), 2) for fields in SWAPS]
    random.shuffle(moves)
    found: dict[str, None] = {}
    frontier = [scene]
    while frontier and len(found) < count:
        wider = []
        for start, move in product(frontier, moves):
            other = swap(start, *move)
            wider.append(other)
            if _told(other) != truth:
                found.setdefault(full_caption(other))
            if len(found) >= count:
                return list(found)
        frontier = wider
    raise ValueError(f"scene {scene.seed} gives only {len(found)} of {count} swapped captions")
