"""Pictures for the page: images that cannot be read are left out, flips are judged by what was hit, not by what it is called."""

from __future__ import annotations

import struct
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fna.data.base import Captioned, Dataset, Labelled
from fna.data.loading import batches, open_image
from fna.runner import gallery
from fna.tasks.base import Outcome, Run
from fna.tasks.exhibits import Pass, Show
from fna.tasks.images import readable


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_what_rows_skip_the_page_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged PNG chunk is a SyntaxError to Pillow, a picture of too many pixels an error of its own."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    examples = [Labelled(name, tmp_path / f"{name}.png", 0) for name in ("damaged", "bomb", "fine", "text")]
    for example, side in zip(examples, (8, 15, 8, 8), strict=True):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(example.image)
    head, _, data = examples[0].image.read_bytes().partition(b"IDAT")
    examples[0].image.write_bytes(head[:-4] + chunk(b"IDAT", data[:4]) + chunk(b"\0\1\2\3", data[4:8]))
    examples[3].image.write_text("no image")
    with pytest.raises(SyntaxError):
        open_image(examples[0].image)
    skipped: list[str] = []
    list(batches(examples, lambda image: torch.zeros(1), batch_size=4, skipped=skipped))
    assert [line.split(":")[0] for line in skipped] == ["damaged", "bomb", "text"]
    assert [example.key for example in readable(Dataset("d", "val", "photographs", "", examples), 4)] == ["fine"]


def test_flips_between_classes_of_one_name(tmp_path: Path) -> None:
    """Full took the crane for the machine, the variant for the bird it is."""
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)

    def answer(decision: int, right: int) -> Outcome:
        counts = {"top1": np.array([right])}
        return Outcome(["a"], counts, np.zeros((1, 2), np.float32), np.array([decision]), ["crane"], ["crane"])

    data = Dataset("d", "val", "photographs", "", [Labelled("a", picture, 134)])
    nothing: Any = None
    passes = [Pass("", one, Run(1), nullcontext) for one in (answer(517, 0), answer(134, 1))]
    (flip,) = gallery.flips(Show(nothing, data, passes, 1, lambda name, content: None))["flips"]
    assert flip["better"] == "variant"


def test_any_caption_of_the_image_is_right(tmp_path: Path) -> None:
    examples = {"a": Captioned("a", tmp_path, ("one", "two"))}
    for label, right in (("two", True), ("three", False)):
        outcome = Outcome(["a"], {}, np.zeros((1, 2), np.float32), np.zeros(1, np.int64), [label], ["one"])
        assert gallery.hit(outcome, 0, examples) == right


def test_where_the_answer_is_the_nearest_other_image_the_page_is_told_so(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")

    def answer(nearest: str) -> Outcome:
        return Outcome(["a"], {}, np.zeros((1, 2), np.float32), np.array([ord(nearest)]), [nearest], [""])

    data = Dataset("d", "", "photographs", "", [Captioned(name, tmp_path / f"{name}.png", ()) for name in "abc"])
    nothing: Any = None
    for others, asked in (("bc", gallery.NEAREST), ("bx", "")):  # x is no image: answers are classes or texts
        passes = [Pass("", answer(one), Run(1), nullcontext) for one in others]
        (flip,) = gallery.flips(Show(nothing, data, passes, 1, lambda name, content: None))["flips"]
        assert (flip["key"], flip["asked"]) == ("a", asked)
