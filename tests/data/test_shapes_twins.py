"""Twins: the same scene with one attribute of one thing changed, as its caption says; scenes without twins stay as they were."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fna.data.scene_captions import captions, full_caption
from fna.data.scene_drawing import draw
from fna.data.scene_files import KINDS, scenes_of, write_split
from fna.data.scene_twins import CHANGES, difference, twin
from fna.data.scenes import Thing, box_of, fits, make_scene
from fna.data.shapes import Shapes, ShapesAsked, ShapesSegmented

DRAWN = scenes_of("test", 400, "twins")
PAIRS = list(zip(DRAWN[::2], DRAWN[1::2], strict=True))


def test_every_second_scene_is_the_one_before_with_one_attribute_of_one_thing_changed() -> None:
    for scene, other in PAIRS:
        changed = [(one, two) for one, two in zip(scene.things, other.things, strict=True) if one != two]
        assert len(changed) == 1
        one, two = changed[0]
        apart = [change for change in CHANGES if getattr(one, change) != getattr(two, change)]
        assert apart == [difference(scene, other)]
        assert one.turn == two.turn
        assert (one.side != two.side) == (apart == ["size"])
        assert ((one.x, one.y) != (two.x, two.y)) == (apart == ["place"])


def test_all_five_attributes_are_changed_equally_often() -> None:
    found = Counter(difference(scene, other) for scene, other in PAIRS)
    assert set(found) == set(CHANGES)
    assert max(found.values()) - min(found.values()) <= 3


def test_a_twin_is_a_scene_that_could_have_been_drawn() -> None:
    for scene in DRAWN:
        assert KINDS["twins"][0] <= len(scene.things) <= KINDS["twins"][1]
        assert fits(scene.things)
        assert len({thing.colour for thing in scene.things}) <= 2


def test_what_could_not_be_drawn_does_not_fit() -> None:
    thing = Thing("square", "red", "plain", "small", 0.5, 0.5, 0.16, 0.0)
    over = Thing("circle", "red", "plain", "large", 0.5, 0.5, 0.36, 0.0)
    assert fits([thing])
    assert fits([over, thing])  # a small thing in front of a large one
    assert not fits([thing, over])  # and behind it
    assert not fits([thing, thing])
    assert not fits([Thing("square", "red", "plain", "small", 0.05, 0.5, 0.16, 0.0)])  # over the edge


def test_captions_name_the_difference_and_no_two_are_alike() -> None:
    assert len({full_caption(scene) for scene in DRAWN}) == len(DRAWN)
    scene, other = next(pair for pair in PAIRS if difference(*pair) == "texture")
    words = zip(full_caption(scene).split(), full_caption(other).split(), strict=True)
    assert sum(one != two for one, two in words if not one.startswith("a")) == 1  # an article may follow


@pytest.mark.parametrize("change", CHANGES)
def test_pixels_change_where_the_thing_is_and_nowhere_else(change: str) -> None:
    for scene, other in [pair for pair in PAIRS if difference(*pair) == change][:5]:
        pixels, others = draw(scene, 128)[0].astype(int), draw(other, 128)[0]
        apart = np.abs(pixels - others).sum(-1) > 0
        assert apart.mean() > 0.003
        for thing in {*scene.things} ^ {*other.things}:
            left, top, right, bottom = (int(128 * side) for side in box_of(thing.outline))
            apart[top - 1 : bottom + 2, left - 1 : right + 2] = False
        assert not apart.any()


def test_a_scene_of_one_colour_gets_a_second_one() -> None:
    scene = next(scene for scene in map(make_scene, range(0, 2000, 5)) if len({thing.colour for thing in scene.things}) == 1)
    other = twin(scene)
    assert difference(scene, other) == "colour"
    assert len({thing.colour for thing in other.things}) == 2


def test_the_same_scene_has_the_same_twin_and_one_thing_alone_has_one_too() -> None:
    scene = make_scene(12)
    assert twin(scene) == twin(make_scene(12))
    for seed in range(10):
        assert twin(make_scene(seed, 1, 1)) != make_scene(seed, 1, 1)


def test_an_odd_number_ends_without_a_twin_and_a_few_are_the_first_of_many() -> None:
    assert scenes_of("test", 7, "twins") == DRAWN[:7]


def test_the_file_says_what_was_changed(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "test", 5, 32, "twins")
    images = json.loads((folder / "annotations/captions_test.json").read_text())["images"]
    told = [difference(*pair) for pair in PAIRS[:2]]
    assert [image.get("changed") for image in images] == [None, told[0], None, told[1], None]
    assert images[0]["seed"] == images[1]["seed"]


def test_retrieval_has_twins_unless_told_otherwise_and_nothing_else_has(tmp_path: Path) -> None:
    root = str(tmp_path)
    twins, alone = (Shapes(count=4, size=32, root=root, twins=choice).load(None) for choice in (True, False))
    assert [example.captions[0] for example in twins.examples] == [full_caption(scene) for scene in DRAWN[:4]]
    assert [example.captions[0] for example in alone.examples] == [full_caption(scene) for scene in scenes_of("test", 4)]
    assert twins.digest != alone.digest
    ShapesSegmented(count=4, size=32, root=root).load(None)
    ShapesAsked(count=4, size=32, root=root).load(None)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"scenes_test_4_32px_v1", "twins_test_4_32px_v1"}


def test_scenes_without_twins_are_what_they_were() -> None:
    """What clip_shapes was trained on, and what the figures of segmentation stand on: no seed gives another scene."""
    scenes = [make_scene(seed) for seed in (0, 1_000_000, 10_000_000, 10_500_000)]
    told = [(captions(scene), [(thing.x, thing.y, thing.side, thing.turn) for thing in scene.things]) for scene in scenes]
    assert hashlib.sha256(repr(told).encode()).hexdigest() == "ca3a3cadd848a30e474d08789599ae05d5f91d3ad9e233d0d677ade11791a2cd"
    for scene in scenes:
        own = replace(scene, clutter=tuple(thing.colour for thing in scene.things))
        assert (draw(scene, 64)[0] == draw(own, 64)[0]).all()
