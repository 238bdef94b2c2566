"""Links that lead nowhere, folders and pipes where files belong, bytes that are no text: each reader says so in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fna.data.asked_files import OwnQuestions, Pope, VqaV2
from fna.data.coco import CocoCaptions
from fna.data.coco_masks import CocoInstances
from fna.data.imagefolder import ImageFolder
from fna.data.images import Images
from fna.data.karpathy import KarpathyCaptions
from fna.data.llava_bench import LlavaBench
from fna.data.segmentation import LabelMaps
from fna.data.tiny_imagenet import TinyImageNet
from fna.data.tsv import TsvCaptions
from fna.errors import UserError

TEN = [{"answer": "red"}] * 10
PICTURE = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}
CAPTIONS = {"images": [PICTURE], "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}
MASKS = {
    "images": [PICTURE],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]], "bbox": [0, 0, 4, 4]}],
    "categories": [{"id": 1, "name": "cat"}],
}
SPLIT = {"images": [{"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a cat"}]}]}
ASKED = {"question_id": 1, "image": "a.jpg", "text": "what?", "category": "conv"}

# reader -> what makes it for a folder, its file of text, what stands there, its pictures
Case = tuple[Callable[[str], Any], str | None, Any, tuple[str, ...]]
READERS: dict[str, Case] = {
    "images": (Images, None, None, ("a.jpg", "b.jpg")),
    "imagefolder": (lambda root: ImageFolder(root, None), None, None, ("x/a.jpg", "y/b.jpg")),
    "tiny_imagenet": (TinyImageNet, "val/val_annotations.txt", "a.jpg\tn1\nb.jpg\tn2\n", ("val/images/a.jpg", "val/images/b.jpg")),
    "coco_captions": (lambda root: CocoCaptions(root, "t.json", ".", "val"), "t.json", CAPTIONS, ("a.jpg",)),
    "karpathy": (lambda root: KarpathyCaptions(root, "t.json"), "t.json", SPLIT, ("a.jpg",)),
    "tsv": (lambda root: TsvCaptions(root, "t.tsv"), "t.tsv", "filepath\tcaptions\na.jpg\t['a cat']\n", ("a.jpg",)),
    "coco_instances": (lambda root: CocoInstances(root, annotations="t.json", images="."), "t.json", MASKS, ("a.jpg",)),
    "label_maps": (
        lambda root: LabelMaps("own", root, "val", "i/{name}.png", "l/{name}.png", ["x", "y"]), None, None, ("i/a.png", "l/a.png"),
    ),
    "questions": (
        lambda root: OwnQuestions(root, "t.jsonl", "."), "t.jsonl", {"image": "a.jpg", "question": "what?", "answers": "red"},
        ("a.jpg",),
    ),
    "vqav2": (
        lambda root: VqaV2(root, "t.json", ".", "val2014", annotations="t.json"), "t.json",
        {
            "questions": [{"question_id": 1, "image_id": 1, "question": "what?"}],
            "annotations": [{"question_id": 1, "answers": TEN}],
        },
        ("COCO_val2014_000000000001.jpg",),
    ),
    "pope": (
        lambda root: Pope(root, "t.jsonl", ".", sets=("random",)), "t.jsonl",
        {"question_id": 1, "image": "a.jpg", "text": "is it?", "label": "no"}, ("a.jpg",),
    ),
    "llava_bench": (
        lambda root: LlavaBench(root, "t.jsonl", "t.jsonl", None, "."), "t.jsonl", ASKED, ("a.jpg",),
    ),
}  # fmt: skip


def made(name: str, root: Path) -> tuple[Any, Path | None, Path]:
    """The reader of that name on whole files in ``root``, its file of text and its first picture."""
    reader, text, content, pictures = READERS[name]
    for picture in pictures:
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if picture.startswith("l/") else "RGB", (8, 8)).save(root / picture)
    if text is not None:
        (root / text).write_text(content if isinstance(content, str) else json.dumps(content))
    source = reader(str(root))
    assert source.load(None).examples, "whole, it is read"
    return source, None if text is None else root / text, root / pictures[0]


def refused(source: Any, *named: str) -> None:
    with pytest.raises(UserError) as told:
        source.load(None)
    assert any(name in str(told.value) for name in named), told.value


@pytest.mark.parametrize("name", READERS)
def test_a_picture_that_is_a_link_to_nowhere_is_named(name: str, tmp_path: Path) -> None:
    source, _, picture = made(name, tmp_path)
    picture.unlink()
    picture.symlink_to(tmp_path / "gone.jpg")
    refused(source, picture.name, "gone.jpg")


@pytest.mark.parametrize("name", [name for name in READERS if READERS[name][1]])
@pytest.mark.parametrize("as_what", ["link", "folder", "bytes", "nothing", "empty"])
def test_a_file_of_text_that_cannot_be_read_is_named(name: str, as_what: str, tmp_path: Path) -> None:
    source, text, _ = made(name, tmp_path)
    assert text is not None
    text.unlink()
    if as_what == "link":
        text.symlink_to(tmp_path / "gone.json")
    elif as_what == "folder":
        text.mkdir()
    elif as_what == "bytes":
        text.write_bytes(b"\xff\xfe\x00{" * 9)
    elif as_what == "empty":
        text.write_bytes(b"")
    refused(source, text.name, "val")


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_that_is_called_as_a_picture_is_not_waited_for(name: str, tmp_path: Path) -> None:
    source, _, picture = made(name, tmp_path)
    picture.unlink()
    os.mkfifo(picture)
    found: list[Any] = []
    with suppress(UserError):
        found = source.load(None).examples
    assert not found or picture in [example.image for example in found], "refused, or left to the pass, which skips and counts it"
