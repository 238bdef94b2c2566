"""Drawing a scene at any resolution, with PIL: twice as fine as asked, then averaged down."""

from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from fna.data.scenes import Scene, Thing, box_of

RGB = {
    "red": (215, 35, 35),
    "orange": (245, 135, 20),
    "yellow": (240, 220, 40),
    "green": (40, 160, 55),
    "cyan": (45, 205, 215),
    "blue": (40, 70, 210),
    "purple": (125, 45, 165),
    "pink": (250, 135, 190),
}
FINER = 2  # subpixels a pixel and axis
PERIOD = 0.05  # of a texture, in unit coordinates
DARK = 0.35  # a texture's second tone, as a share of the first


def draw(scene: Scene, size: int, clutter: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels `[size, size, 3]` and owners `[size, size]`: 0 for background, i + 1 where thing i is on top."""
    fine = FINER * size
    random = Random(scene.seed * 7_368_787 + 11)
    canvas = _background(random, scene, fine) if clutter else Image.new("RGB", (fine, fine), (128, 128, 128))
    owners = Image.new("L", (fine, fine), 0)
    for index, thing in enumerate(scene.things):
        _paint(canvas, owners, thing, index + 1, Random(scene.seed * 31 + index))
    return np.asarray(canvas.reduce(FINER)), np.asarray(owners)[FINER // 2 :: FINER, FINER // 2 :: FINER].copy()


def _paint(canvas: Image.Image, owners: Image.Image, thing: Thing, owner: int, random: Random) -> None:
    fine = canvas.width
    points = [(x * fine, y * fine) for x, y in thing.outline]
    left, top, right, bottom = box_of(tuple(points))
    corner = (int(left), int(top))
    extent = (int(right) - corner[0] + 2, int(bottom) - corner[1] + 2)
    mask = Image.new("L", extent, 0)
    ImageDraw.Draw(mask).polygon([(x - corner[0], y - corner[1]) for x, y in points], fill=255)
    first = tuple(min(255, max(0, channel + random.randint(-18, 18))) for channel in RGB[thing.colour])
    canvas.paste(first, corner, mask)
    if thing.texture != "plain":
        tile = _pattern(thing.texture, fine)
        period = max(int(PERIOD * fine), 2)
        start = (random.randrange(period), random.randrange(period))
        crop = tile.crop((start[0], start[1], start[0] + extent[0], start[1] + extent[1]))
        canvas.paste(tuple(int(DARK * channel) for channel in first), corner, ImageChops.multiply(mask, crop))
    owners.paste(owner, corner, mask)


@lru_cache(maxsize=64)
def _pattern(texture: str, fine: int) -> Image.Image:
    """Where a texture's second tone goes: `L` image with room for the largest thing and any start."""
    y, x = np.mgrid[0 : fine // 2, 0 : fine // 2] / (PERIOD * fine)
    if texture == "striped":
        on = (x + y) % 1 < 0.5
    elif texture == "dotted":
        on = (x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.09
    elif texture == "checkered":
        on = (x % 1 < 0.5) ^ (y % 1 < 0.5)
    else:
        raise ValueError(f"unknown texture {texture!r}")
    return Image.fromarray((on * 255).astype(np.uint8))


def _background(random: Random, scene: Scene, fine: int) -> Image.Image:
    """Soft muted patches under thin lines and dots; half of these in the scene's own colours, too small to be things."""
    level = random.randint(90, 190)
    coarse = bytes(min(255, max(0, level + random.randint(-45, 45))) for _ in range(5 * 5 * 3))
    canvas = Image.frombytes("RGB", (5, 5), coarse).resize((fine, fine), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    colours = [RGB[colour] for colour in scene.clutter or [thing.colour for thing in scene.things]]
    for step in range(28):
        tone = random.choice(colours) if step % 2 else tuple(random.randint(50, 220) for _ in range(3))
        x, y = random.random() * fine, random.random() * fine
        if step % 4 < 2:
            reach = random.uniform(0.008, 0.025) * fine
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=tone)
        else:
            end = (x + random.uniform(-0.2, 0.2) * fine, y + random.uniform(-0.2, 0.2) * fine)
            pen.line((x, y, *end), fill=tone, width=max(1, round(0.007 * fine)))
    return canvas
