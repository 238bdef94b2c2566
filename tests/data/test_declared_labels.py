"""Label maps are held against their declaration: variants of a format are refused with what reads them, gaps are noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fna.data.label_values import read_values
from fna.errors import UserError
from fna.metrics.compare import check_numbers
from fna.metrics.iou import label_notes
from fna.records import json_bytes
from tests.data.test_label_maps import draw, source

CITY = ("leftImg8bit/val/a/a_1_leftImg8bit.png", "gtFine/val/a/a_1_gtFine_labelIds.png")
ADE = ("images/validation/ADE_val_00000001.jpg", "annotations/validation/ADE_val_00000001.png")
STUFF = ("val2017/000000000139.jpg", "stuffthingmaps/val2017/000000000139.png")


def loaded(name: str, root: Path, files: tuple[str, str], values: Any, **changes: Any) -> Any:
    draw(root / files[0], root / files[1], values)
    return source(name, root, **changes).load(None)


def test_cityscapes_train_ids_in_the_place_of_label_ids(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train ids \(0 to 18\), not label ids; give 'dataset\.ignored=\[255\]'"):
        loaded("cityscapes", tmp_path, CITY, [*range(19), 255])
    assert loaded("cityscapes", tmp_path, CITY, [*range(19), 255], ignored=[255]).digest
    with pytest.raises(UserError, match="label value 26: these are label ids"):
        loaded("cityscapes", tmp_path, CITY, [7, 8, 26], ignored=[255])
    assert loaded("cityscapes", tmp_path, CITY, [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 21, 23, 26]).digest


@pytest.mark.parametrize(
    ("labels", "ignored", "words"),
    [
        ("_gtFine_labelTrainIds.png", [0, 255], "dataset.ignored=\\[255\\]"),
        ("_gtFine_instanceIds.png", [0, 255], "numbers of instances"),
        ("_gtFine_color.png", [0, 255], "colours"),
    ],
)
def test_cityscapes_variants_by_name(labels: str, ignored: list[int], words: str, tmp_path: Path) -> None:
    draw(tmp_path / CITY[0], tmp_path / CITY[1], [7])
    data = source("cityscapes", tmp_path, labels="gtFine/{split}/{name}" + labels, ignored=ignored)
    with pytest.raises(UserError, match=words):
        data.check()


def test_ade20k_shifted_already_and_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shifted down by one already; give 'dataset\.ignored=\[255\]'"):
        loaded("ade20k", tmp_path, ADE, [0, 1, 149, 255])
    with pytest.raises(UserError, match=r"not shifted down by one; leave dataset\.ignored out"):
        loaded("ade20k", tmp_path, ADE, [0, 1, 150], ignored=[255])
    assert loaded("ade20k", tmp_path, ADE, [0, 1, 149, 255], ignored=[255]).digest


def test_coco_stuff_with_and_without_its_gaps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"label value 11, .*train ids .* give 'dataset\.absent=\[\]'"):
        loaded("coco_stuff", tmp_path, STUFF, [0, 11, 170, 255])
    with pytest.raises(UserError, match=r"label value 181: these are no train ids; leave dataset\.absent out"):
        loaded("coco_stuff", tmp_path, STUFF, [0, 181], absent=[])
    assert loaded("coco_stuff", tmp_path, STUFF, [0, 11, 170, 255], absent=[]).digest


def test_pascal_vocs_objects_and_colours(tmp_path: Path) -> None:
    files = ("JPEGImages/a.jpg", "SegmentationClass/a.png")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    draw(tmp_path / files[0], tmp_path / files[1], [0, 1])
    with pytest.raises(UserError, match="numbers of objects"):
        source("pascal_voc", tmp_path, labels="SegmentationObject/{name}.png").check()
    colours = np.zeros((6, 8, 3), np.uint8)
    colours[:3], colours[3:, 4:] = (192, 0, 0), (0, 0, 128)  # chair, bottle
    picture = Image.fromarray(colours)
    picture.save(tmp_path / files[1])
    with pytest.raises(UserError, match=r"a colour image \(RGB\) in PASCAL VOC's colours"):
        source("pascal_voc", tmp_path).load(None)
    picture.quantize(8).save(tmp_path / files[1])
    with pytest.raises(UserError, match="PASCAL VOC's colours under other numbers"):
        source("pascal_voc", tmp_path).load(None)


def test_a_value_that_no_class_has_is_found_at_load(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png: label value 12, which no class of camvid has"):
        loaded("camvid", tmp_path, ("val/a.png", "valannot/a.png"), [0, 12])


def test_a_split_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    draw(tmp_path / "img/train/a.png", tmp_path / "ann/train/a.png", [0])
    places = {"images": "img/{split}/{name}.png", "labels": "ann/{split}/{name}.png"}
    with pytest.raises(UserError, match=r"dataset\.split=val: no folder .*img/val; beside it there is train\."):
        source("camvid", tmp_path, **places).check()
    assert source("camvid", tmp_path, **places, split="train").load(None).examples


def test_pictures_beside_the_pattern_are_counted_and_hidden_ones_are_none(tmp_path: Path) -> None:
    draw(tmp_path / "val/a.png", tmp_path / "valannot/a.png", [0])
    for name in ("b.jpg", "c.gif", "._a.png"):
        (tmp_path / "val" / name).write_bytes(b"?")
    data = source("camvid", tmp_path).load(None)
    assert [example.key for example in data.examples] == ["a"]
    assert data.notes[0] == "1 picture left out: not ending in .png"
    assert data.notes[1].startswith("1 picture left out: .gif")


def test_other_pixels_of_the_same_size_are_another_data_set(tmp_path: Path) -> None:
    images = {}
    for value in (10, 20):
        Image.new("L", (8, 6), value).save(tmp_path / "a.bmp")
        (tmp_path / "val").mkdir(exist_ok=True)
        images[value] = (tmp_path / "a.bmp").read_bytes()
    draw(tmp_path / "val/a.png", tmp_path / "valannot/a.png", [0])
    digests = []
    for content in images.values():
        (tmp_path / "val/a.png").write_bytes(content)
        digests.append(source("camvid", tmp_path).load(None).digest)
    assert digests[0] != digests[1]


def test_classes_labelled_nowhere_and_much_that_is_ignored_are_noted() -> None:
    counts = {"labelled": np.array([[5, 0, 0], [1, 0, 0]]), "ignored": np.array([0, 4])}
    assert label_notes(counts, ["sky", "tree", "car"]) == [
        "2 of 3 classes are labelled nowhere in these 2 images: tree, car",
        "40 % of the labels' pixels are ignored and count nowhere",
    ]
    assert label_notes({"labelled": np.array([[5, 4]]), "ignored": np.array([4])}, ["sky", "tree"]) == []


def test_a_figure_that_is_no_number_fails_by_name() -> None:
    figures = {"miou": {"full": float("nan"), "variant": float("nan")}, "aacc": {"full": 1.0, "variant": 2.0}}
    with pytest.raises(UserError, match="miou of full and variant: not a number") as caught:
        check_numbers(figures)
    assert "aacc" not in str(caught.value)
    check_numbers({"aacc": figures["aacc"]})


def test_json_is_json_whatever_is_in_it() -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf"), (np.float64("-inf"),)], "c": Path("x"), 3: None}
    text = json_bytes(value).decode()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "a": None,
        "b": [1.5, None, [None]],
        "c": "x",
        "3": None,
    }


def test_a_label_map_cut_anywhere_is_told_by_its_name(tmp_path: Path) -> None:
    """Also where Pillow, looking for the next page, raises what it raises nowhere else."""
    page = Image.fromarray(np.eye(9, dtype=np.uint8))
    page.save(tmp_path / "whole.tif", save_all=True, append_images=[page])
    data = (tmp_path / "whole.tif").read_bytes()
    cut = tmp_path / "cut.tif"
    for end in range(0, len(data), 3):
        cut.write_bytes(data[:end])
        with pytest.raises(UserError, match=r"cut\.tif: "):
            read_values(cut)


def test_the_same_label_maps_read_otherwise_are_another_data_set(tmp_path: Path) -> None:
    """What is kept of a training split goes by its digest: a head that learnt other classes is another head."""
    draw(tmp_path / "val/a.png", tmp_path / "valannot/a.png", [0, 1, 2, 3])
    few = [source("camvid", tmp_path, classes=["a", "b", "c"], ignored=[value]).load(None) for value in (0, 3)]
    assert few[0].digest != few[1].digest


def painted(file: Path, values: Any, colours: dict[int, tuple[int, int, int]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.resize(np.asarray(values, np.uint8), (6, 8))).convert("P")
    picture.putpalette([part for value in range(256) for part in colours.get(value, (0, 0, 0))])
    picture.save(file)


def test_palettes_that_number_the_same_colours_anew_in_each_file_are_refused(tmp_path: Path) -> None:
    """A program that keeps colours only writes other class values into every label map; each alone looks whole."""
    road, sky, car = (128, 64, 128), (128, 128, 128), (64, 0, 128)
    for name in ("0", "1"):
        draw(tmp_path / f"val/{name}.png", tmp_path / f"valannot/{name}.png", [0])
    painted(tmp_path / "valannot/0.png", [0, 3], {0: sky, 3: road})
    painted(tmp_path / "valannot/1.png", [0, 3, 8], {0: sky, 3: road, 8: car})
    assert source("camvid", tmp_path).load(None).digest
    painted(tmp_path / "valannot/1.png", [3, 8], {3: sky, 8: road})
    with pytest.raises(UserError, match=r"1\.png: the colour \(128, 128, 128\) is value 3 here and 0 in .*0\.png: .*original PNGs"):
        source("camvid", tmp_path).load(None)
    painted(tmp_path / "valannot/1.png", [0, 3, 8], dict.fromkeys((0, 3, 8), (9, 9, 9)))
    assert source("camvid", tmp_path).load(None).digest, "a palette that tells no values apart says nothing about them"


def test_palettes_of_the_maps_to_learn_from_are_held_against_those_asked_about(tmp_path: Path) -> None:
    """A head would learn other classes under the same numbers."""
    road, sky = (128, 64, 128), (128, 128, 128)
    for split, seed in (("val", 0), ("train", 1)):
        draw(tmp_path / f"{split}/0.png", tmp_path / f"{split}annot/0.png", [seed])
        Image.new("RGB", (8, 6), (seed, 0, 0)).save(tmp_path / f"{split}/0.png")
        painted(tmp_path / f"{split}annot/0.png", [0, 3], {0: sky, 3: road})
    data = source("camvid", tmp_path, train="train").load(None)
    assert data.training is not None
    assert data.training().split == "train"
    painted(tmp_path / "trainannot/0.png", [0, 3], {0: road, 3: sky})
    with pytest.raises(UserError, match=r"trainannot/0\.png: the colour .* is value 0 here and 3 in .*valannot/0\.png"):
        data.training()
