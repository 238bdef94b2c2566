"""Scenes: a seed becomes a few coloured shapes with places. Pure description, nothing is drawn here.

All geometry is in unit coordinates (x to the right, y down, the image is the unit square), so a scene can be drawn
at any resolution. The same seed gives the same scene in every process: only `random.Random(seed)` is consulted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ("small", "medium", "large")
SIDES = {"small": (0.14, 0.18), "medium": (0.22, 0.27), "large": (0.32, 0.38)}  # 0.125 would be 32 of 256 pixels
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
HIDDEN = 0.3  # at most this share of a shape's area may be covered by later shapes
MARGIN = 0.01  # between a shape's box and the edge

Box = tuple[float, float, float, float]
Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Thing:
    """One shape: its four attributes, the centre and side of its box, and its turn in radians."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    side: float
    turn: float

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column on the 3 x 3 grid of places."""
        return min(int(self.y * 3), 2), min(int(self.x * 3), 2)

    @property
    def place(self) -> str:
        row, column = self.cell
        return PLACES[row][column]

    @property
    def outline(self) -> Outline:
        """The polygon in unit coordinates; its longer side is `side` and its box is centred on (x, y)."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in template(self.shape)]
        xs, ys = [p[0] for p in turned], [p[1] for p in turned]
        scale = self.side / max(max(xs) - min(xs), max(ys) - min(ys))
        middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
        return tuple((self.x + scale * (x - middle_x), self.y + scale * (y - middle_y)) for x, y in turned)


@dataclass(frozen=True)
class Scene:
    """Things from back to front, the order in which a full caption tells them, the pair it relates, and the colours that half of
    the background's lines and dots are drawn in (none given: the things' own)."""

    seed: int
    things: tuple[Thing, ...]
    order: tuple[int, ...]
    pair: tuple[int, int]
    clutter: tuple[str, ...] = ()


def box_of(outline: Outline) -> Box:
    """Left, top, right, bottom."""
    xs, ys = [p[0] for p in outline], [p[1] for p in outline]
    return min(xs), min(ys), max(xs), max(ys)


def area_of(outline: Outline) -> float:
    """Area by the shoelace formula; a ring is one polygon whose seam runs to its hole and back."""
    following = outline[1:] + outline[:1]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(outline, following, strict=True))) / 2


@cache
def template(shape: str) -> Outline:
    """The upright outline of a shape, in arbitrary units."""

    def arc(radius: float, start: float, stop: float, points: int = 28, shift: float = 0.0) -> list[tuple[float, float]]:
        angles = [math.radians(start + (stop - start) * i / points) for i in range(points + 1)]
        return [(shift + radius * math.cos(a), radius * math.sin(a)) for a in angles]

    if shape == "circle":
        return tuple(arc(1, 0, 360)[:-1])
    if shape == "square":
        return ((-1, -1), (1, -1), (1, 1), (-1, 1))
    if shape == "triangle":
        return ((0, -1), (1, 0.8), (-1, 0.8))
    if shape == "star":
        radii = (1.0, 0.42) * 5
        angles = [math.radians(-90 + 36 * i) for i in range(10)]
        return tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True))
    if shape == "cross":
        a, b = 0.32, 1.0
        return ((-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a))
    if shape == "heart":
        steps = [2 * math.pi * i / 36 for i in range(36)]
        return tuple(
            (16 * math.sin(t) ** 3, -13 * math.cos(t) + 5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t)) for t in steps
        )
    if shape == "ring":
        return (*arc(1, 0, 360), *arc(0.55, 360, 0))
    if shape == "moon":
        return (*arc(1, 50, 310), *arc(0.8, 287, 73, shift=0.41))
    raise ValueError(f"unknown shape {shape!r}; known are {', '.join(SHAPES)}")


def make_scene(seed: int, least: int = 3, most: int = 5) -> Scene:
    """The scene of a seed: `least` to `most` things in two colours, seldom one.

    Few colours a scene, because a scene told by its colours alone would be found by a histogram. No two things share
    both shape and colour, so "the red circle" means one thing.
    """
    random = Random(seed * 1_000_003 + most)
    while True:
        things = _place_all(random, random.randint(least, most))
        if things is not None:
            break
    order = list(range(len(things)))
    random.shuffle(order)
    pair = (order[0], order[-1])
    return Scene(seed, tuple(things), tuple(order), pair)


def fits(things: Sequence[Thing]) -> bool:
    """Whether things could stand in a scene: inside the image, each hidden by at most HIDDEN, no two of one shape and colour."""
    boxes = [box_of(thing.outline) for thing in things]
    spare = [HIDDEN * area_of(thing.outline) for thing in things]
    return (
        all(thing.side / 2 + MARGIN <= min(thing.x, thing.y, 1 - thing.x, 1 - thing.y) for thing in things)
        and all(sum(_overlap(box, boxes[i]) for box in boxes[i + 1 :]) <= spare[i] for i in range(len(things)))
        and len({(thing.shape, thing.colour) for thing in things}) == len(things)
    )


def _place_all(random: Random, count: int) -> list[Thing] | None:
    """`count` things, each hidden by at most HIDDEN, or None where the draw does not fit."""
    palette = random.sample(COLOURS, 2)
    kinds = random.sample([(shape, colour) for shape in SHAPES for colour in palette], count)
    things: list[Thing] = []
    boxes: list[Box] = []
    spare: list[float] = []  # how much of each thing may still be covered
    for shape, colour in kinds:
        size, texture = random.choice(SIZES), random.choice(TEXTURES)
        side, turn = random.uniform(*SIDES[size]), random.uniform(-0.2, 0.2)
        thing = Thing(shape, colour, texture, size, 0.0, 0.0, side, turn)
        outline = thing.outline
        reach = box_of(outline)
        area = area_of(outline)
        for _ in range(12):
            x, y = coordinate(random, side), coordinate(random, side)
            box = (reach[0] + x, reach[1] + y, reach[2] + x, reach[3] + y)
            # Boxes overstate how much is covered, so the promise holds without drawing.
            covered = [_overlap(box, other) for other in boxes]
            if all(c <= s for c, s in zip(covered, spare, strict=True)):
                break
        else:
            return None
        spare = [s - c for s, c in zip(spare, covered, strict=True)]
        things.append(replace(thing, x=x, y=y))
        boxes.append(box)
        spare.append(HIDDEN * area)
    return things


def coordinate(random: Random, side: float) -> float:
    """A centre that keeps the thing inside and is not on the border between two places."""
    margin = side / 2 + MARGIN
    while True:
        value = random.uniform(margin, 1 - margin)
        if min(abs(value - 1 / 3), abs(value - 2 / 3)) > 0.02:
            return value


def _overlap(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0
