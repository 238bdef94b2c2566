"""Roots, splits and files that would answer another question: refused, or said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fna.data import files
from fna.data.coco_masks import CocoInstances, CocoPanoptic
from fna.data.imagefolder import ImageFolder
from fna.data.imagenet import ImageNet
from fna.data.pictures import pages_note
from fna.data.segmentation import LabelMaps
from fna.data.shapes import ShapesSegmented
from fna.data.tiny_imagenet import TinyImageNet
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
        ("train_images", "test_images"),
        ("train_set", "test_set"),
        ("trainset", "testset"),
        ("training_data", "testing_data"),
        ("val-images", "train-images"),
        ("Train Photos", "Valid Photos"),
        ("trainA", "trainB", "testA", "testB"),
        ("my", "train_images", "test_images"),  # two that can only be splits, whatever lies beside them
        ("dataset_train", "dataset_val"),
        ("2017train", "2017val"),
        ("set_1", "set_2"),
        ("validation_masks", "img"),
    ],
)
@pytest.mark.parametrize("split", ["auto", None])
def test_what_lies_one_level_too_high_is_not_read_as_classes(names: tuple[str, ...], split: str | None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give"):
        ImageFolder(str(tree(tmp_path, *names)), split).load(None)


@pytest.mark.parametrize("names", [("valid", "invalid"), ("test_tube", "train_station"), ("setter", "pointer"), ("dataset", "cat")])
def test_words_that_hold_such_a_word_are_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    assert ImageFolder(str(tree(tmp_path, *names)), None).load(None).classes == sorted(names)


@pytest.mark.parametrize("split", ["", " ", ".", "./", "..", "val/..", "/"])
def test_a_split_that_is_the_root_itself_is_refused(split: str, tmp_path: Path) -> None:
    root = str(tree(tmp_path, "cat", "dog"))
    for source in (
        ImageFolder(root, split),
        ImageNet(root, split),
        LabelMaps("mine", root, split, "{split}/{name}.png", "{split}/{name}.png", ["a", "b"]),
        CocoInstances(root, split),
        CocoPanoptic(root, split),
    ):
        with pytest.raises(UserError, match=r"^dataset\.split=.*: names no folder in the root; give the name of one\.$"):
            source.check()


def test_pages_behind_the_first_are_noted(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("one", "two"):
        pages[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=pages[1:] if name == "two" else [])
    files_of = sorted(tmp_path.iterdir())
    assert pages_note(files_of) == ["of 1 picture with several pages or frames the first page is read (first: two.tif)"]
    assert pages_note(files_of[:1]) == []


def test_a_label_map_of_several_pages_is_refused(tmp_path: Path) -> None:
    source = label_maps(tmp_path, ".tif", [(32, 32)])
    page = Image.fromarray(np.zeros((32, 32), np.uint8))
    page.save(tmp_path / "ann" / "00.tif", save_all=True, append_images=[page])
    with pytest.raises(UserError, match=r"00\.tif: has 2 pages; give label maps of one"):
        source.load(None)


def test_a_wrong_value_is_found_at_load_wherever_in_a_small_set_it_stands(tmp_path: Path) -> None:
    source = label_maps(tmp_path, ".png", [(32, 32)] * 40)
    Image.fromarray(np.full((32, 32), 7, np.uint8)).save(tmp_path / "ann" / "33.png")
    with pytest.raises(UserError, match=r"33\.png: label value 7, which no class of mine has"):
        source.load(None)


def test_a_category_called_background_is_the_background(tmp_path: Path) -> None:
    for folder in ("val2017", "annotations"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "val2017" / "a.png")
    squares = {0: [0, 0, 31, 0, 31, 31, 0, 31], 1: [2, 2, 20, 2, 20, 20, 2, 20]}
    told = [{"id": n, "image_id": 1, "category_id": n, "segmentation": [points]} for n, points in squares.items()]
    kinds = [{"id": 0, "name": "Background"}, {"id": 1, "name": "cat"}]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": told, "categories": kinds}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    data = CocoInstances(str(tmp_path)).load(None)
    assert data.classes == ["background", "cat"]
    assert data.notes == ["the category background is class 0, as are pixels without an instance"]
    labels = data.read_labels(data.examples[0])
    assert (labels[0, 0], labels[10, 10]) == (0, 1)
    assert CocoInstances(str(tmp_path), background=False).load(None).classes == ["Background", "cat"]


def test_one_folder_of_the_same_name_in_every_class_is_a_layout_of_classes(tmp_path: Path) -> None:
    """Tiny-ImageNet's train split."""
    root = tree(tmp_path, "train/n01443537/images", "train/n01629819/images")
    assert ImageFolder(str(root), "train").load(None).classes == ["n01443537", "n01629819"]


def test_a_class_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    assert ImageFolder(str(tree(tmp_path, "car", "train", "train_station")), None).load(None).classes[1] == "train"


def test_pictures_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    root = tree(tmp_path, "val/cat", "val/dog")
    Image.new("RGB", (8, 8)).save(root / "val" / "stray.png")
    assert any("1 picture left out" in note for note in ImageFolder(str(root)).load(None).notes)


def test_a_list_of_classes_names_each_and_those_without_images_are_noted(tmp_path: Path) -> None:
    root, names = tree(tmp_path, "val/1", "val/2"), tmp_path / "names.tsv"
    names.write_text("0\tcow\n1\tcat\n2\tdog\n", encoding="utf-8")
    found = ImageFolder(str(root), classes=str(names)).load(None)
    assert "1 of 3 classes have no images here (first: 0)" in found.notes
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


def maps(root: Path, *names: str, **changes: object) -> LabelMaps:
    """A picture and a label map of 0 and 1 for each name."""
    for name in names:
        for file, made in ((f"img/val/{name}.png", Image.new("RGB", (4, 2))), (f"ann/val/{name}.png", Image.new("L", (4, 2), 1))):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            made.save(root / file)
    places = {"images": "img/{split}/{name}.png", "labels": "ann/{split}/{name}.png"}
    return LabelMaps(**{"name": "mine", "root": str(root), "split": "val", "classes": ["a", "b"], **places, **changes})  # type: ignore[arg-type]


def test_label_maps_behind_a_link_to_a_folder_are_read(tmp_path: Path) -> None:
    source = maps(tmp_path / "data", "bonn/0", "ulm/1")
    (tmp_path / "data/img/val/bonn").rename(tmp_path / "elsewhere")
    (tmp_path / "data/img/val/bonn").symlink_to(tmp_path / "elsewhere")
    assert [example.key for example in source.load(None).examples] == ["bonn/0", "ulm/1"]


def test_names_may_start_within_the_file_name(tmp_path: Path) -> None:
    source = maps(tmp_path, "x_0", "x_1", images="img/{split}/x_{name}.png", labels="ann/{split}/x_{name}.png")
    assert [example.key for example in source.load(None).examples] == ["0", "1"]


def test_label_maps_without_an_image_are_counted(tmp_path: Path) -> None:
    source = maps(tmp_path, "0", "1", "2")
    (tmp_path / "img/val/1.png").unlink()
    assert source.load(None).notes == ["1 label map without an image left out (first: 1)"]


def test_nobody_is_asked_about_what_a_head_was_trained_on(tmp_path: Path) -> None:
    assert maps(tmp_path, "0", train="val").load(None).training is None
    assert maps(tmp_path, "0", train="val/").load(None).training is None
    assert maps(tmp_path, "0", train="train").load(None).training is not None
    assert ShapesSegmented(root=str(tmp_path / "drawn"), split="train", count=2, size=32).load(None).training is None


def test_a_link_to_a_class_folder_that_is_gone_is_no_missing_class(tmp_path: Path) -> None:
    tree(tmp_path, "cat", "dog")
    (tmp_path / "fish").symlink_to("/nowhere/fish")
    with pytest.raises(UserError, match=r"fish: a link to /nowhere/fish, which is not there; bring back .*or remove it\.$"):
        ImageFolder(str(tmp_path), split=None).load(None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("0.png\tn1\n1.png\tn2\n0.png\tn2\n", r"0\.png has two labels; give each picture one"),
        ("0.png\tn1\n1.png\t \n", r"1\.png has no label; give each picture one"),
    ],
)
def test_labels_that_say_two_things_or_nothing_are_refused(lines: str, said: str, tmp_path: Path) -> None:
    tree(tmp_path, "val/images")
    (tmp_path / "val/val_annotations.txt").write_text(lines)
    with pytest.raises(UserError, match=said):
        TinyImageNet(str(tmp_path)).load(None)


def test_pictures_that_no_label_is_given_for_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, "val/images")
    Image.new("RGB", (8, 8)).save(tmp_path / "val/images/new.png")
    (tmp_path / "val/val_annotations.txt").write_text("0.png\tn1\n1.png\tn2\n")
    assert TinyImageNet(str(tmp_path)).load(None).notes == ["1 picture left out: val_annotations.txt gives no label"]
