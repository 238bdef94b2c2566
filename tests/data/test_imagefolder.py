"""Image folders: order, labels, class lists, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fna.data.imagefolder import ImageFolder
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
