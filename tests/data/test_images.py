"""One's own pictures without labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fna.data.images import Images
from fna.errors import UserError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_all_pictures_flat_and_nested_by_path(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/2.PNG", "a/deep/1.webp", ".hidden/0.jpg", "__MACOSX/0.jpg"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "c.heic").write_bytes(b"one that is not read")
    data = Images(str(tmp_path)).load(None)
    assert [example.key for example in data.examples] == ["a/2.PNG", "a/deep/1.webp", "b.jpg"]
    assert any("1 picture left out: .heic" in note for note in data.notes)
    assert (data.split, list(data.classes)) == ("none", [])
    few = Images(str(tmp_path)).load(2)
    assert "the first 2 of 3 pictures" in few.notes
    assert few.digest != data.digest


def test_what_holds_no_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.root=.*nowhere: no such folder"):
        Images(str(tmp_path / "nowhere")).check()
    (tmp_path / "c.heic").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no picture, .*dataset\.root=PATH\. 1 picture left out"):
        Images(str(tmp_path)).load(None)
    picture(tmp_path / "file.jpg")
    with pytest.raises(UserError, match=r"file\.jpg: a file, no folder"):
        Images(str(tmp_path / "file.jpg")).check()
