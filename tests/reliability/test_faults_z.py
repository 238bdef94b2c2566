"""Cases of a sixteenth pair of eyes, what of them failed: files that are something else, copies, what training splits lack, label
maps and polygons of other files, questions as other tools write them."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fna.data.asked_files import OwnQuestions
from fna.data.base import Pictured
from fna.data.coco import CocoCaptions
from fna.data.coco_masks import CocoInstances
from fna.data.copies import copies_note
from fna.data.imagefolder import ImageFolder
from fna.data.imagenet import ImageNet
from fna.data.images import Images
from fna.data.label_values import read_values
from fna.data.loading import none_read
from fna.data.prepared import Cache
from fna.data.segmentation import LabelMaps
from fna.data.shapes import Shapes
from fna.errors import UserError
from fna.metrics.__main__ import scored
from fna.models.timm import TimmModel
from fna.tasks.base import Run
from fna.tasks.dense import Inference
from fna.tasks.heads import LinearHead

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n"
PAGE = b"<!DOCTYPE html><html><title>Sign in</title></html>"


def picture(path: Path, shade: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """A picture of one colour, which ``shade`` tells from those of others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade % 256, shade // 256, 9)).save(path)
    return path


def tree(root: Path, *classes: str, each: int = 2, first: int = 0) -> Path:
    """Folders of classes, ``each`` pictures in them, all different."""
    for place, name in enumerate(classes):
        for number in range(each):
            picture(root / name / f"{number}.png", first + place * each + number)
    return root


# 10 and 17: files that are something else than what they are called


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "a pointer of git-lfs, not the file itself; fetch that with git lfs pull"),
        (PAGE, r"a web page \(HTML\)"),
        (gzip.compress(b"{}", mtime=0), "packed by gzip; unpack it"),
        (b"PAR1\x15\x04", "a parquet table"),
        (b"PK\x03\x04\x14", r"a zip archive, as spreadsheets \(\.xlsx\) are too"),
    ],
)
@pytest.mark.parametrize(
    "read",
    [
        lambda file: CocoCaptions(str(file.parent), file.name, ".", "val").load(None),
        lambda file: OwnQuestions(str(file.parent), file.name, ".").load(None),
        lambda file: ImageFolder(str(tree(file.parent / "tree", "cat", "dog")), None, str(file)).load(None),
        read_values,
    ],
)
def test_a_file_that_is_plainly_something_else_is_told_as_what_it_is(
    read: Callable[[Path], Any], content: bytes, said: str, tmp_path: Path
) -> None:
    for name in ("a.json", "a.csv"):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: {said}"):
            read(file)


@pytest.mark.parametrize(("content", "said"), [(LFS, "git lfs pull"), (PAGE, "a web page")])
def test_pictures_that_are_something_else_are_told_so_too(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert said in str(none_read([Pictured("a", tmp_path / "a.jpg")]))


@pytest.mark.parametrize(
    "read", [ImageFolder, Images, ImageNet, lambda root: LabelMaps("mine", root, "val", "{name}.jpg", "{name}.png", ["a", "b"])]
)
def test_an_archive_in_the_place_of_a_folder_is_called_a_file(read: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "data.tar").write_bytes(b"x")
    with pytest.raises(UserError, match=r"dataset\.root=.*data\.tar: a file, no folder; unpack it"):
        read(str(tmp_path / "data.tar")).load(None)


@pytest.mark.parametrize("read", [ImageFolder, Images])
@pytest.mark.parametrize("name", ["000000.tar", "data/train-00000-of-00002.parquet"])
def test_a_folder_of_shards_is_told_that_pictures_are_read_from_folders(read: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 archive \(\.\w+; first: .*\) left out: unpack what holds pictures"):
        read(str(tmp_path)).load(None)


def test_a_class_that_is_still_packed_is_noted_and_one_that_was_unpacked_is_not(tmp_path: Path) -> None:
    root = tree(tmp_path, "cat", "dog")
    zipfile.ZipFile(root / "cat.zip", "w").close()
    assert not any("archive" in note for note in ImageFolder(str(root), None).load(None).notes)
    zipfile.ZipFile(root / "owl.zip", "w").close()
    assert any("1 archive (.zip; first: owl.zip) left out" in note for note in ImageFolder(str(root), None).load(None).notes)


def test_validation_images_of_imagenet_that_were_not_moved_into_folders_yet_are_counted(tmp_path: Path) -> None:
    root = tree(tmp_path / "val", "n01440764", "n01443537")
    picture(root / "ILSVRC2012_val_00000007.JPEG")
    assert any("1 picture left out" in note for note in ImageNet(str(tmp_path)).load(None).notes)


def test_flat_images_of_imagenet_without_the_first_are_read(tmp_path: Path) -> None:
    for number in (2, 3):
        picture(tmp_path / f"val/ILSVRC2012_val_{number:08}.JPEG", number)
    rows = ["ImageId,PredictionString", "ILSVRC2012_val_00000002,n01440764 1 2 3 4", "ILSVRC2012_val_00000003,n01443537 1 2 3 4"]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(rows))
    data = ImageNet(str(tmp_path)).load(None)
    assert [example.label for example in data.examples] == [0, 1]
    assert "2 of ILSVRC2012's 50,000 validation images" in data.notes


@pytest.mark.parametrize(
    "text", ["n01440764 tench, Tinca tinca\nn01443537 goldfish\n", '{"0": ["n01440764", "tench"]}', "tench\ngoldfish\n"]
)
def test_a_list_of_classes_in_another_form_shows_what_its_first_id_is(text: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text)
    root = tree(tmp_path / "tree", "n01440764", "n01443537")
    first = text.split("\n")[0]
    with pytest.raises(UserError) as error:
        ImageFolder(str(root), None, str(tmp_path / "classes.txt")).load(None)
    assert f"its first line gives the id {first!r}: give a TSV of folder and name" in str(error.value)


# 6: copies, and what a split to learn from lacks


def test_a_picture_in_two_classes_is_noted_with_the_first(tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"c{number:03}" for number in range(150)))
    shutil.copy(root / "c000/0.png", root / "c001/9.png")
    shutil.copy(root / "c002/0.png", root / "c002/9.png")
    (note,) = copies_note(ImageFolder(str(root), None).load(None).examples)
    assert note.startswith("2 pictures of 302 are copies of another, byte for byte, 1 in another class than it, where no answer")
    assert "(first: c001/9.png is c000/0.png)" in note


def test_copies_without_classes_are_noted_where_they_count(tmp_path: Path) -> None:
    for number in range(150):
        picture(tmp_path / f"{number:03}.png", number)
    assert copies_note(Images(str(tmp_path)).load(None).examples) == []
    shutil.copy(tmp_path / "000.png", tmp_path / "a.png")
    assert copies_note(Images(str(tmp_path)).load(None).examples) == []
    shutil.copy(tmp_path / "001.png", tmp_path / "b.png")
    (note,) = copies_note(Images(str(tmp_path)).load(None).examples)
    assert note.startswith("2 pictures of 152 are copies of another, byte for byte (first: a.png is 000.png)")
    assert "its copy is the one nearest to it" in note


def test_what_is_left_out_of_a_split_to_learn_from_is_noted_as_such(tmp_path: Path) -> None:
    tree(tmp_path / "val", "cat", "dog")
    tree(tmp_path / "train", "cat", first=9)
    (tmp_path / "train/dog").mkdir()
    picture(tmp_path / "train/stray.png")
    (tmp_path / "classes.tsv").write_text("cat\ndog\n")
    data = ImageFolder(str(tmp_path), "val", str(tmp_path / "classes.tsv"), train="train").load(None)
    assert data.training is not None
    data.training()
    data.training()
    told = [note for note in data.notes if note.startswith("train, to learn from: ")]
    assert len(told) == 2
    assert any("1 of 2 classes have no images here (first: dog)" in note for note in told)
    assert any("1 picture left out" in note for note in told)


def test_classes_of_which_a_bank_takes_all_are_noted(tmp_path: Path) -> None:
    tree(tree(tmp_path, "cat", "dog", each=3), "owl", first=9)
    data = ImageFolder(str(tmp_path), None, bank=2).load(None)
    assert "of 1 class no image is left to ask about (first: owl): dataset.bank=2 takes all there are" in data.notes


# 3: label maps


def maps(root: Path, values: Sequence[int], classes: Sequence[str] = ("background", "cat"), **options: Any) -> LabelMaps:
    """A label map a split, of these values."""
    for split in ("val", "train"):
        picture(root / f"images/{split}/a.jpg", len(split), (8, 4))
        (root / f"labels/{split}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.resize(np.array(values, np.uint8), (4, 8))).save(root / f"labels/{split}/a.png")
    places = {"images": "images/{split}/{name}.jpg", "labels": "labels/{split}/{name}.png"} | options
    return LabelMaps("mine", str(root), "val", classes=classes, train="train", **places)


def test_a_label_value_that_no_class_has_is_told_with_those_that_they_have_and_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        maps(tmp_path, [0, 1, 7]).load(None)
    assert "label value 7, which no class of mine has: its 2 classes have the values 0 to 1, 255 is ignored" in str(error.value)
    assert "name all classes" in str(error.value)
    assert "dataset.ignored=[...]" in str(error.value)


def test_label_maps_of_turned_images_are_told_the_tag(tmp_path: Path) -> None:
    source = maps(tmp_path, [0, 1])
    Image.new("L", (4, 8)).save(tmp_path / "labels/val/a.png")
    with pytest.raises(UserError, match=r"4x8, but its image .* is 8x4; if the image is turned by an EXIF tag, save it turned"):
        source.load(None)


def test_images_without_a_label_map_can_be_left_out_by_a_list(tmp_path: Path) -> None:
    source = maps(tmp_path, [0, 1])
    picture(tmp_path / "images/val/b.jpg", 3, (8, 4))
    with pytest.raises(UserError, match=r"1 file of split val is missing, .*b\.png; .*dataset\.listing=FILE"):
        source.load(None)
    for split in ("val", "train"):
        (tmp_path / f"{split}.txt").write_text("a\n")
    assert len(maps(tmp_path, [0, 1], listing="{split}.txt").load(None).examples) == 1
    (tmp_path / "val.txt").write_text("a.jpg\n")
    with pytest.raises(UserError, match=r"each line of val\.txt stands for \{name\} in images/\{split\}/\{name\}\.jpg"):
        maps(tmp_path, [0, 1], listing="{split}.txt").load(None)


def test_label_maps_beside_their_images_are_no_images(tmp_path: Path) -> None:
    picture(tmp_path / "val/a.png", 1)
    Image.new("L", (8, 8), 1).save(tmp_path / "val/a_mask.png")
    patterns = {"images": "{split}/{name}.png", "labels": "{split}/{name}_mask.png"}
    data = LabelMaps("mine", str(tmp_path), "val", classes=["background", "cat"], **patterns).load(None)
    assert [example.key for example in data.examples] == ["a"]
    with pytest.raises(UserError, match=r"dataset\.labels=.*: these are the images themselves"):
        LabelMaps("mine", str(tmp_path), "val", classes=["background", "cat"], images="{name}.png", labels="{name}.png").check()


def test_a_class_that_a_head_was_not_shown_is_noted_with_it(tmp_path: Path) -> None:
    data = maps(tmp_path, [0, 1, 2], ["background", "cat", "dog"]).load(None)
    Image.new("L", (8, 4), 1).save(tmp_path / "labels/train/a.png")
    model = TimmModel("vit_tiny_patch16_224", random=True, num_classes=0).build(
        image_size=32, device="cpu", dtype="float32", seed=0
    )
    for _ in range(2):  # trained, and read again
        head = LinearHead(steps=1)
        head.prepare(model, data, Run(batch_size=1), Inference(), tmp_path / "cache")
        said = "linear head: trained on 1 image, in which 2 of 3 classes are labelled nowhere: background, dog"
        assert head.notes(data) == [said]


def coco(root: Path, square: tuple[int, int, int, int], count: int = 6, **options: Any) -> CocoInstances:
    """Pictures of 100 x 80 with a mask each, (left, top, right, bottom)."""
    left, top, right, bottom = square
    told: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for number in range(count):
        picture(root / f"val/{number}.png", number, (100, 80))
        polygon = [[left, top, right, top, right, bottom, left, bottom]]
        told["images"].append({"id": number, "file_name": f"{number}.png"})
        told["annotations"].append({"id": number, "image_id": number, "category_id": 1, "segmentation": polygon})
    (root / "a.json").write_text(json.dumps(told))
    return CocoInstances(str(root), "val", annotations="a.json", images="val", **options)


@pytest.mark.parametrize(
    ("square", "odd"), [((5, 5, 60, 50), True), ((5, 5, 98, 50), False), ((30, 25, 70, 55), False), ((50, 40, 98, 78), False)]
)
def test_polygons_that_leave_all_images_empty_on_the_right_and_below_are_noted(
    square: tuple[int, int, int, int], odd: bool, tmp_path: Path
) -> None:
    assert any("were the images enlarged since?" in note for note in coco(tmp_path, square).load(None).notes) == odd


def test_a_few_polygons_may_lie_anywhere(tmp_path: Path) -> None:
    assert not any("enlarged" in note for note in coco(tmp_path, (5, 5, 60, 50), 3).load(None).notes)


def test_images_of_instances_that_are_not_there_are_left_out_if_asked_and_counted(tmp_path: Path) -> None:
    source = coco(tmp_path, (5, 5, 98, 78))
    (tmp_path / "val/3.png").unlink()
    with pytest.raises(UserError, match=r"1 of the annotated files is not there, 3\.png .*dataset\.missing=skip goes on"):
        source.load(None)
    data = CocoInstances(str(tmp_path), "val", annotations="a.json", images="val", missing="skip").load(None)
    assert [example.key for example in data.examples] == ["0", "1", "2", "4", "5"]
    assert "1 of 6 images left out: not there (first: 3.png)" in data.notes


# 10: questions as other tools write them


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.tsv", "image\tquestion\tanswers\na.png\tWhat, then?\tcat\n"),
        ("q.csv", 'image,question,answers\na.png,"What, then?","[\'cat\']"\n'),
        ("q.csv", 'image, question, answers\na.png, "What, then?", cat\n'),
    ],
)
def test_questions_in_tables_of_other_tools_are_read(name: str, text: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / name).write_text(text)
    (example,) = OwnQuestions(str(tmp_path), name, "images").load(None).examples
    assert (example.image.name, example.question, example.answers) == ("a.png", "What, then?", ("cat",))


def test_json_over_several_lines_is_not_told_to_be_fetched_again(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "q.json").write_text(json.dumps({"questions": []}, indent=1))
    with pytest.raises(UserError, match=r"line 1: not JSON .*; give an object in each line, or a list of them"):
        OwnQuestions(str(tmp_path), "q.json", "images").load(None)


def test_answers_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    line = {"variant": "full", "answers": ["a\u2028b"], "said": "a\u2028b", "kind": "", "scoring": "exact", "key": "1"}
    (tmp_path / "p.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [*scored(tmp_path / "p.jsonl")] == ["full"]


# 11: a cache folder that cannot be had


def test_a_cache_folder_that_is_a_link_to_nowhere_is_named_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").symlink_to(tmp_path / "gone")
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"cache is a link to .*gone, which is not there\); mend that or give another .*FNA_CACHE"):
        Shapes(count=1, size=32, twins=False).load(None)
    told: list[str] = []
    shelf = Cache(told.append).shelf([Pictured("a", picture(tmp_path / "a.png"))], np.array)
    assert shelf is not None
    shelf.put(0, torch.zeros(3, 8, 8))
    (line,) = told
    assert "cache is a link to " in line
    assert line.endswith("give another folder with FNA_CACHE=PATH; the run goes on without it")
