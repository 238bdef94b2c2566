"""Image folders: order, labels, class lists, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fna.data.imagefolder import ImageFolder
from fna.data.tiny_imagenet import TinyImageNet
from fna.errors import UserError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes: b with 2.jpg and 10.JPEG, a with 1.png; and things that are no images of a class."""
    for name in ("val/b/2.jpg", "val/b/10.JPEG", "val/a/1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "val/b/notes.txt").write_text("no image")
    (tmp_path / "val/.cache").mkdir()
    (tmp_path / "val/top.jpg").write_bytes(b"")
    return tmp_path


def test_order_and_labels(tree: Path) -> None:
    data = ImageFolder(str(tree)).load(None)
    assert [(example.key, example.label) for example in data.examples] == [("a/1.png", 0), ("b/10.JPEG", 1), ("b/2.jpg", 1)]
    assert (list(data.classes), data.split, data.domain) == (["a", "b"], "val", "photographs")
    inside = ImageFolder(str(tree / "val"), split=None).load(None)
    assert [example.key for example in inside.examples] == [example.key for example in data.examples]
    assert (inside.split, inside.digest) == ("val", data.digest)
    assert [example.key for example in ImageFolder(str(tree)).load(2).examples] == ["a/1.png", "b/10.JPEG"]


def test_a_class_list_says_the_order(tree: Path) -> None:
    (tree / "classes.tsv").write_text("c\tcat\nb\tbird, small\na\tape\n")
    data = ImageFolder(str(tree), classes=str(tree / "classes.tsv")).load(None)
    assert [example.label for example in data.examples] == [2, 1, 1]
    assert (list(data.classes), list(data.class_ids)) == (["cat", "bird, small", "ape"], ["c", "b", "a"])


@pytest.mark.parametrize(
    ("text", "words"), [("b\n", "lacks 1 .*first: a"), ("a\na\nb\n", "class a stands there twice"), ("", "no class")]
)
def test_a_class_list_that_does_not_fit(text: str, words: str, tree: Path) -> None:
    (tree / "classes.tsv").write_text(text)
    with pytest.raises(UserError, match=words):
        ImageFolder(str(tree), classes=str(tree / "classes.tsv")).load(None)


def test_the_digest_follows_content(tree: Path) -> None:
    before = ImageFolder(str(tree)).load(None).digest
    Image.new("RGB", (32, 32)).save(tree / "val/b/2.jpg")
    assert ImageFolder(str(tree)).load(None).digest != before


def test_what_is_not_there(tree: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.root=.*no such folder"):
        ImageFolder(str(tree / "nowhere")).check()
    with pytest.raises(UserError, match=r"dataset\.classes=PATH"):
        ImageFolder(str(tree), classes="nowhere.tsv").check()
    for name in ("cat", "dog"):
        (tree / "empty" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no <class>/\*\.jpg"):
        ImageFolder(str(tree), split="empty").load(None)


@pytest.mark.parametrize(("name", "count"), [("tiny_imagenet", 1000), ("imagenet_sample", 200)])
def test_real_trees(name: str, count: int, shared_data: Path) -> None:
    data = ImageFolder(str(shared_data / name), classes=str(shared_data / "vit_tiny_tinyimagenet" / "classes.tsv")).load(None)
    assert (len(data.examples), len(data.classes)) == (count, 200)
    assert data.classes[data.examples[0].label].startswith("goldfish")


def planted(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


def test_a_split_that_is_named_must_be_there(tmp_path: Path) -> None:
    planted(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2.png")
    with pytest.raises(UserError, match=r"dataset\.split=val: no such folder in .*; there is test, train: give one with dataset"):
        ImageFolder(str(tmp_path), "val").check()
    with pytest.raises(UserError, match=r"dataset\.split is not typed, and means val: no such folder"):
        ImageFolder(str(tmp_path)).check()
    with pytest.raises(UserError, match=r"test, train look like splits"):
        ImageFolder(str(tmp_path), None).check()
    assert ImageFolder(str(tmp_path), "test").load(None).split == "test"


def test_class_folders_in_the_root_are_read_and_that_is_said(tmp_path: Path) -> None:
    planted(tmp_path, "cat/1.png", "dog/1.png")
    data = ImageFolder(str(tmp_path)).load(None)
    assert (list(data.classes), data.split) == (["cat", "dog"], "none")
    assert data.notes == [f"no split was named: the 2 folders of {tmp_path} are read as the classes"]
    assert ImageFolder(str(tmp_path), None).load(None).notes == []
    with pytest.raises(UserError, match=r"there is cat, dog: if these are the classes, give dataset\.split=null"):
        ImageFolder(str(tmp_path), "test").check()


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.png", "test/1.png"),  # splits without classes
        ("Training/a/1.png", "Training/b/1.png", "extra/a/1.png", "extra/b/1.png"),
        ("fold1/a/1.png", "fold1/b/1.png", "fold2/a/1.png", "fold2/b/1.png"),  # splits by another name
        ("images/1.png", "masks/1.png"),  # label maps
        ("JPEGImages/1.jpg", "SegmentationClass/1.png"),  # PASCAL VOC
        ("leftImg8bit/1.png", "gtFine/1.png"),
        ("train2017/1.jpg", "val2017/1.jpg"),
        ("cat/1.png",),  # one class
        ("val/cat/1.png",),
        ("val/1.png",),
    ],
)
def test_what_is_no_folder_a_class_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    for split in ("auto", "val"):
        with pytest.raises(UserError) as caught:
            ImageFolder(str(planted(tmp_path, *names)), split).check()
        assert "\n" not in str(caught.value)


def test_splits_called_otherwise_are_no_classes(tmp_path: Path) -> None:
    planted(tmp_path, "fold1/a/1.png", "fold1/b/1.png", "fold2/a/1.png", "fold2/b/1.png")
    with pytest.raises(UserError, match="fold1, fold2 look like splits"):
        ImageFolder(str(tmp_path), None).check()


def test_a_class_without_an_image_is_refused(tmp_path: Path) -> None:
    planted(tmp_path, "val/cat/1.png", "val/dog/1.png")
    (tmp_path / "val/empty").mkdir()
    with pytest.raises(UserError, match="empty: a class without an image"):
        ImageFolder(str(tmp_path)).load(None)


def tiny(root: Path) -> Path:
    """Tiny-ImageNet's val folder as its archive has it."""
    planted(root, *(f"val/images/val_{number}.JPEG" for number in range(4)))
    wnids = ("n02124075", "n01443537", "n02124075", "n01443537")
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62" for number, wnid in enumerate(wnids)]
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tiny_imagenet_as_it_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one class alone .*Tiny-ImageNet's own val folder: read it with dataset=tiny_imagenet"):
        ImageFolder(str(tiny(tmp_path))).check()
    data = TinyImageNet(str(tmp_path)).load(None)
    assert [(example.image.name, example.label) for example in data.examples] == [
        ("val_1.JPEG", 0), ("val_3.JPEG", 0), ("val_0.JPEG", 1), ("val_2.JPEG", 1)]  # fmt: skip
    assert (list(data.class_ids), data.split) == (["n01443537", "n02124075"], "val")
    (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG n02124075\n")
    with pytest.raises(UserError, match="no table of file name and WordNet id"):
        TinyImageNet(str(tmp_path)).load(None)
