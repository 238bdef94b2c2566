"""What an image folder is classified by: another split of the same classes, or a bank cut from the same one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from fna.data.imagefolder import ImageFolder
from fna.data.shapes import ShapesSingle
from fna.data.tiny_imagenet import TinyImageNet
from fna.errors import UserError
from tests.reliability.lines import asked


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, len(folder.name), 0)).save(folder / f"{number}.jpg")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes in two splits: three images each to learn from, two to be asked about."""
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            pictures(tmp_path / split / name, count)
    return tmp_path


def test_another_split_teaches_whatever_the_limit(tree: Path) -> None:
    data = ImageFolder(str(tree), split="val", train="train").load(1)
    assert data.training is not None
    assert [example.key for example in data.examples] == ["cat/0.jpg"]
    learnt = data.training()
    assert [(example.key, example.label) for example in learnt.examples][2:4] == [("cat/2.jpg", 0), ("dog/0.jpg", 1)]
    assert (learnt.split, learnt.classes) == ("train", data.classes)
    assert ImageFolder(str(tree)).load(None).training is None


@pytest.mark.parametrize("task", ["knn", "probe"])
def test_a_task_that_learns_is_refused_without_anything_to_learn_from_before_weights_are_read(tree: Path, task: str) -> None:
    words = [
        "model=dinov2",
        "model.random=true",
        "dataset=imagefolder",
        f"dataset.root={tree}",
        "dataset.split=val",
        f"task={task}",
    ]
    said = asked(words)
    assert said is not None
    assert "imagefolder has no images to learn from: give a split" in said
    assert "dataset.train=SPLIT, or dataset.bank=4" in said
    assert asked([*words, "dataset.train=train"]) is None
    assert asked([*words, "dataset.bank=1"]) is None


def test_what_is_drawn_has_no_bank_to_be_told_of(tree: Path) -> None:
    said = asked(["dataset=shapes_single", "dataset.split=train", "task=knn"])
    assert said is not None
    assert "dataset.train=SPLIT, another than dataset.split" in said
    assert "bank" not in said
    assert "no training split here" in str(asked(["dataset=shapes_segmented", "dataset.split=train"]))
    assert asked(["dataset=shapes_segmented", "dataset.split=train", "task=segmentation_zeroshot"]) is None


def test_a_bank_is_cut_from_the_only_split(tree: Path) -> None:
    data = ImageFolder(str(tree), split="train", bank=2).load(None)
    assert data.training is not None
    assert [example.key for example in data.examples] == ["cat/2.jpg", "dog/2.jpg"]
    assert [example.label for example in data.training().examples] == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"dataset\.bank=3: leaves 6 images to learn from and 0 to ask about"):
        ImageFolder(str(tree), split="train", bank=3).load(None)


@pytest.mark.parametrize(
    ("train", "bank", "said"),
    [
        ("val", None, r"dataset\.train=val: these are the images that are asked about; .*dataset\.bank=4"),
        ("tain", None, r"dataset\.train=tain: no such folder in .*; there is train, val: give one with dataset\.train=NAME"),
        ("train", 2, r"dataset\.train=train and dataset\.bank=2: .*give one"),
        (".", None, r"dataset\.train=\.: names no folder in the root"),
        ("train/cat", None, r"dataset\.train=train/cat: .*holds no folder"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_before_any_image_is_read(
    train: str, bank: int | None, said: str, tree: Path
) -> None:
    with pytest.raises(UserError, match=said):
        ImageFolder(str(tree), split="val", train=train, bank=bank).check()


def test_a_split_of_other_classes_is_refused(tree: Path) -> None:
    """By sorted names alone a class more or less, or another spelling, would move every label."""
    wrong = r"dataset\.train=train: its 3 classes are not the 2 of .*val \(bird is in one only\): .*dataset\.classes=FILE"
    pictures(tree / "train" / "bird", 1)
    with pytest.raises(UserError, match=wrong):
        ImageFolder(str(tree), train="train").check()
    (tree / "classes.tsv").write_text("dog\ncat\nbird\n")
    data = ImageFolder(str(tree), train="train", classes=str(tree / "classes.tsv")).load(None)
    assert data.training is not None
    assert {(example.key[:3], example.label) for example in data.training().examples} == {("dog", 0), ("cat", 1), ("bir", 2)}
    assert {(example.key[:3], example.label) for example in data.examples} == {("dog", 0), ("cat", 1)}
    shutil.rmtree(tree / "train" / "bird")
    (tree / "train" / "cat").rename(tree / "train" / "Cat")
    with pytest.raises(UserError, match=r"its 2 classes are not the 2 of .*\(Cat is in one only\)"):
        ImageFolder(str(tree), train="train").check()


def test_the_archive_of_tiny_imagenet_teaches_by_its_own_train_folder(tmp_path: Path) -> None:
    """Its val lies flat beside a file of labels, its train a folder a class with images/ inside."""
    pictures(tmp_path / "val" / "images", 2)
    (tmp_path / "val" / "val_annotations.txt").write_text("0.jpg\tn02\t0\t0\t1\t1\n1.jpg\tn01\t0\t0\t1\t1\n")
    for name in ("n01", "n02"):
        pictures(tmp_path / "train" / name / "images", 2)
    data = TinyImageNet(str(tmp_path), train="train").load(None)
    assert data.training is not None
    assert [(example.key, example.label) for example in data.examples] == [("n01/1.jpg", 0), ("n02/0.jpg", 1)]
    assert [example.label for example in data.training().examples] == [0, 0, 1, 1]
    pictures(tmp_path / "train" / "n03" / "images", 1)
    with pytest.raises(UserError, match="n03 is in one only"):
        TinyImageNet(str(tmp_path), train="train").check()


def test_drawn_scenes_teach_by_another_split(tmp_path: Path) -> None:
    data = ShapesSingle(count=2, train_count=3, size=32, root=str(tmp_path)).load(None)
    assert data.training is not None
    assert (len(data.training().examples), data.training().split) == (3, "train")
    assert ShapesSingle(split="train", count=2, size=32, root=str(tmp_path)).load(None).training is None


def test_a_limit_says_how_many_samples_and_classes_it_leaves(tree: Path) -> None:
    """The first N of a class tree are all of its first classes."""
    assert "2 of 6 samples, 1 of 2 classes" in ImageFolder(str(tree), split="train").load(2).notes
    assert not ImageFolder(str(tree), split="train").load(6).notes
    assert "1 of 2 samples, 1 of 2 classes" in ImageFolder(str(tree), split="train", bank=2).load(1).notes


def test_copies_under_other_names_among_the_images_to_learn_from_are_noted_once(tree: Path) -> None:
    """Byte for byte the same picture in both splits is its own nearest neighbour: no other file than the one asked about."""
    data = ImageFolder(str(tree), split="val", train="train").load(None)
    assert data.training is not None
    data.training()
    both, torn = "among those to learn from", "in another class"  # the tree's pictures are alike in all classes
    assert [note for note in data.notes if both in note] == [
        "4 images of 4 asked about also among those to learn from, byte for byte (cat/0.jpg is cat/0.jpg of train): "
        "the figures are too good by that"
    ]
    data.training()
    assert len(data.notes) == 2
    assert torn in data.notes[0]
    for name in ("cat", "dog"):
        for number in range(2):
            Image.new("RGB", (8, 8), (200 + number, len(name), 200)).save(tree / "val" / name / f"{number}.jpg")
    shutil.copy(tree / "train" / "dog" / "2.jpg", tree / "val" / "cat" / "1.jpg")
    data = ImageFolder(str(tree), split="val", train="train").load(None)
    assert data.training is not None
    data.training()
    assert "1 image of 4 asked about also among" in data.notes[-1]
    assert "(cat/1.jpg is cat/2.jpg of train)" in data.notes[-1]


def test_copies_in_the_bank_of_the_same_split_are_noted(tree: Path) -> None:
    shutil.copy(tree / "train" / "cat" / "0.jpg", tree / "train" / "cat" / "9.jpg")
    data = ImageFolder(str(tree), split="train", bank=2).load(None)
    assert data.training is not None
    data.training()
    assert "1 image of 3 asked about" in data.notes[-1]
    assert "(cat/9.jpg is cat/0.jpg of bank)" in data.notes[-1]
