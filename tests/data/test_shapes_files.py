"""The cache: COCO's formats, written once, whole or not at all, redrawn where it was changed."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fna.data.scene_drawing import draw
from fna.data.scene_files import digest_of, scenes_of, write_split
from fna.data.scenes import SHAPES
from fna.data.shapes import Shapes, ShapesAsked, ShapesSegmented, ShapesSingle
from fna.errors import UserError


def test_cocos_own_reader_reads_it(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    folder = write_split(tmp_path, "val", 6, 96)
    with contextlib.redirect_stdout(io.StringIO()):
        instances = COCO(str(folder / "annotations/instances_val.json"))
        captions = COCO(str(folder / "annotations/captions_val.json"))
    assert [category["name"] for category in instances.loadCats(instances.getCatIds())] == list(SHAPES)
    for number, scene in enumerate(scenes_of("val", 6)):
        pixels, owners = draw(scene, 96)
        image = np.asarray(Image.open(folder / "val" / instances.imgs[number]["file_name"]))
        assert (image == pixels).all()
        assert len(captions.imgToAnns[number]) == 5
        notes = instances.imgToAnns[number]
        assert len(notes) == len(scene.things)
        for index, note in enumerate(notes):
            assert (instances.annToMask(note).astype(bool) == (owners == index + 1)).all()
            assert note["area"] == (owners == index + 1).sum()


def _write(root: Path) -> str:
    return digest_of(write_split(root, "test", 12, 64))


def test_two_processes_write_one_cache(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(_write, [tmp_path, tmp_path])
    assert digests[0] == digests[1]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["scenes_test_12_64px_v1"]


def test_written_once_and_redrawn_where_it_was_changed(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "test", 4, 64)
    first, digest = folder / "test/000000000000.png", digest_of(folder)
    before = first.stat().st_mtime_ns
    assert write_split(tmp_path, "test", 4, 64) == folder
    assert first.stat().st_mtime_ns == before
    content = first.read_bytes()
    first.write_bytes(content[:-40])
    write_split(tmp_path, "test", 4, 64)
    assert first.read_bytes() == content
    assert digest_of(folder) == digest


def test_the_four_kinds(tmp_path: Path) -> None:
    root = str(tmp_path)
    captioned = Shapes(count=5, size=64, root=root).load(3)
    assert [len(example.captions) for example in captioned.examples] == [1, 1, 1]
    everything = Shapes(count=5, size=64, root=root, captions="all").load(None)
    assert [len(example.captions) for example in everything.examples] == [5] * 5
    assert everything.digest != captioned.digest
    labelled = ShapesSingle(count=5, size=64, root=root, by="both").load(None)
    assert len(labelled.classes) == 64
    segmented = ShapesSegmented(count=5, size=64, root=root, train_count=3).load(None)
    assert list(segmented.classes) == ["background", *SHAPES]
    assert segmented.training is not None
    assert len(segmented.training().examples) == 3
    assert segmented.read_labels(segmented.examples[0]).shape == (64, 64)
    asked = ShapesAsked(count=5, size=64, root=root, kind="colour").load(None)
    assert all(example.question.startswith("what colour") for example in asked.examples)
    assert {captioned.domain, labelled.domain, segmented.domain, asked.domain} == {"generated"}


@pytest.mark.parametrize("source", [Shapes(split="trial"), Shapes(count=0), ShapesSingle(size=2)])
def test_what_cannot_be_is_refused_at_once(source: Shapes | ShapesSingle) -> None:
    with pytest.raises(UserError, match=r"dataset\."):
        source.check()


@pytest.mark.parametrize("place", ["a.jpg", "holiday/a.png"])
def test_no_scene_is_drawn_into_a_folder_of_ones_own_pictures(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"draws its own and reads none; for yours give dataset=images"):
        Shapes(count=2, size=32, root=str(tmp_path)).load(None)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_root_that_holds_drawn_scenes_is_used_again(tmp_path: Path) -> None:
    kinds = (Shapes, ShapesSingle, ShapesSegmented, Shapes)
    assert [len(kind(count=2, size=32, root=str(tmp_path)).load(None).examples) for kind in kinds]
