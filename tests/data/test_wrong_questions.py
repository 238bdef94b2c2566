"""Roots, splits and files that would answer another question: refused, or said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fna.data import files
from fna.data.coco_masks import CocoInstances
from fna.data.imagefolder import ImageFolder
from fna.data.segmentation import LabelMaps
from fna.errors import UserError


def tree(root: Path, *names: str) -> Path:
    """Two small pictures in each of the folders."""
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("a/cat", "a/dog", "b/car", "b/bus"),  # two data sets beside each other
        ("one/cat", "one/dog", "two/cat", "two/dog", "two/bird"),  # splits of which one lacks a class
        ("train_256", "val_256"),
        ("fold-0", "fold-1"),
        ("query", "gallery"),
        ("images", "masks"),
    ],
)
@pytest.mark.parametrize("split", ["auto", None])
def test_what_lies_one_level_too_high_is_not_read_as_classes(names: tuple[str, ...], split: str | None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give"):
        ImageFolder(str(tree(tmp_path, *names)), split).load(None)


def test_one_folder_of_the_same_name_in_every_class_is_a_layout_of_classes(tmp_path: Path) -> None:
    """Tiny-ImageNet's train split."""
    root = tree(tmp_path, "train/n01443537/images", "train/n01629819/images")
    assert ImageFolder(str(root), "train").load(None).classes == ["n01443537", "n01629819"]


def test_a_class_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    assert ImageFolder(str(tree(tmp_path, "car", "train", "train_station")), None).load(None).classes[1] == "train"


def test_pictures_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    root = tree(tmp_path, "val/cat", "val/dog")
    Image.new("RGB", (8, 8)).save(root / "val" / "stray.png")
    assert any("1 pictures left out" in note for note in ImageFolder(str(root)).load(None).notes)


def test_a_list_of_classes_names_each_and_those_without_images_are_noted(tmp_path: Path) -> None:
    root, names = tree(tmp_path, "val/1", "val/2"), tmp_path / "names.tsv"
    names.write_text("id\tname\n1\tcat\n2\tdog\n", encoding="utf-8")
    found = ImageFolder(str(root), classes=str(names)).load(None)
    assert "1 of 3 classes have no images here (first: id)" in found.notes
    names.write_text("1\tcat\n2\t\n", encoding="utf-8")
    with pytest.raises(UserError, match="class 2 has no name"):
        ImageFolder(str(root), classes=str(names)).load(None)
    names.write_text("1\tcat\n2\tdog\n", encoding="utf-8-sig")  # with the mark that Windows writes
    assert ImageFolder(str(root), classes=str(names)).load(None).class_ids == ["1", "2"]


def test_a_large_list_of_classes_is_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "names.tsv").write_text("".join(f"n{number:08}\tclass {number}\n" for number in range(100_000)), encoding="utf-8")
    assert len(files.read_classes(str(tmp_path / "names.tsv"))[0]) == 100_000  # quadratic, it took minutes


def label_maps(root: Path, suffix: str, sizes: list[tuple[int, int]]) -> LabelMaps:
    for number, size in enumerate(sizes):
        for folder in ("img", "ann"):
            (root / folder).mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(root / "img" / f"{number:02}.png")
        Image.fromarray(np.zeros(size, np.uint8)).save(root / "ann" / f"{number:02}{suffix}")
    return LabelMaps("mine", str(root), "val", "img/{name}.png", f"ann/{{name}}{suffix}", ["a", "b"])


def test_label_maps_that_were_saved_as_jpeg_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="JPEG keeps class values about right only"):
        label_maps(tmp_path, ".jpg", [(32, 32)]).load(None)


def test_a_label_map_of_another_size_is_refused_at_load_wherever_it_stands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"11\.png: 16x8, but its image .*11\.png is 32x32"):
        label_maps(tmp_path, ".png", [(32, 32)] * 11 + [(8, 16)]).load(None)


def test_masks_that_cover_no_pixel_are_counted(tmp_path: Path) -> None:
    for folder in ("val2017", "annotations"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "val2017" / "a.png")
    square, speck = [2, 2, 20, 2, 20, 20, 2, 20], [0.1, 0.1, 0.3, 0.1, 0.3, 0.3]
    told = [{"id": n, "image_id": 1, "category_id": 1, "segmentation": [points]} for n, points in enumerate((square, speck))]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": told, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    assert CocoInstances(str(tmp_path)).load(None).notes == ["1 of 2 masks cover no pixel"]
