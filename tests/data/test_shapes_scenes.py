"""What a scene promises: sizes, places, how much is hidden, and the same scene everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from fna.data.scene_drawing import FINER, RGB, draw
from fna.data.scenes import (
    COLOURS,
    HIDDEN,
    PLACES,
    SHAPES,
    SIDES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    area_of,
    box_of,
    make_scene,
)

SCENES = [make_scene(seed) for seed in range(300)]


def test_every_scene_is_as_promised() -> None:
    for scene in SCENES:
        assert 3 <= len(scene.things) <= 5
        assert len({thing.colour for thing in scene.things}) <= 2
        assert len({(thing.shape, thing.colour) for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            left, top, right, bottom = box_of(thing.outline)
            assert max(right - left, bottom - top) == pytest.approx(thing.side)
            assert min(left, top) >= 0
            assert max(right, bottom) <= 1
            assert SIDES[thing.size][0] <= thing.side <= SIDES[thing.size][1]
            assert thing.side * 256 >= 32


def test_every_attribute_and_place_occurs() -> None:
    things = [thing for scene in SCENES for thing in scene.things]
    for field, values in (("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES), ("size", SIZES)):
        seen = Counter(getattr(thing, field) for thing in things)
        assert set(seen) == set(values)
        assert min(seen.values()) > 0.6 * len(things) / len(values)
    assert {thing.place for thing in things} == {place for row in PLACES for place in row}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_covers_the_area_it_says(shape: str) -> None:
    thing = Thing(shape, "red", "plain", "large", 0.5, 0.5, 0.36, 0.1)
    _, owners = draw(Scene(0, (thing,), (0,), (0, 0)), 256)
    assert owners.astype(bool).mean() == pytest.approx(area_of(thing.outline), rel=0.06)


def test_at_most_30_percent_hidden() -> None:
    worst = 0.0
    for scene in SCENES[:60]:
        _, owners = draw(scene, 128)
        for index, thing in enumerate(scene.things):
            _, alone = draw(Scene(scene.seed, (thing,), (0,), (0, 0)), 128)
            worst = max(worst, 1 - (owners == index + 1).sum() / alone.astype(bool).sum())
    assert 0.05 < worst <= HIDDEN + 0.02  # some do overlap; a hundredth or two is the pixels' doing


def test_masks_are_the_drawn_pixels() -> None:
    for scene in SCENES[:10]:
        bare = Scene(scene.seed, (), (), (0, 0))
        pixels, owners = draw(scene, 128, clutter=False)
        empty, _ = draw(bare, 128, clutter=False)
        changed = (pixels != empty).any(-1)
        mask = owners > 0
        assert changed[mask].mean() > 0.999
        border = changed & ~mask  # half-covered pixels, along the outlines only
        assert border.sum() < 0.25 * mask.sum()
        for index, thing in enumerate(scene.things):
            if thing.texture == "plain":
                middle = np.median(pixels[owners == index + 1], axis=0)
                assert np.abs(middle - RGB[thing.colour]).max() <= 18


@pytest.mark.parametrize("size", [32, 100, 384])
def test_any_resolution_shows_the_same_scene(size: int) -> None:
    for scene in SCENES[:5]:
        pixels, owners = draw(scene, size)
        assert pixels.shape == (size, size, 3)
        assert owners.shape == (size, size)
        _, finest = draw(scene, 512)
        for index in range(len(scene.things)):
            assert (owners == index + 1).mean() == pytest.approx((finest == index + 1).mean(), abs=2 * FINER / size / 4)


def test_another_process_draws_the_same_pixels() -> None:
    told = (
        "import hashlib, random; random.seed(9); from fna.data.scenes import make_scene; from fna.data.scene_drawing import draw;"
        "from fna.data.scene_captions import captions, swapped_captions; s = make_scene(11); p, o = draw(s, 96);"
        "print(hashlib.sha256(p.tobytes() + o.tobytes() + repr((s, captions(s), swapped_captions(s, 9))).encode()).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1]


def test_drawing_does_not_load_torch() -> None:
    code = "import sys; import fna.data.shapes, fna.data.scene_files, fna.data.scene_drawing; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
