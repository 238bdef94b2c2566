"""What pictures hold that no figure shows is said once, with what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fna.data.oddities import LOOKED_AT, ORIENTATION, image_notes


def deep(path: Path, highest: int) -> Path:
    """A 16-bit grey ramp up to ``highest``."""
    Image.fromarray(np.linspace(0, highest, 4096).reshape(64, 64).astype(np.uint16)).save(path)
    return path


def tagged(path: Path, orientation: int | None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(("bits", "times"), [(12, 16), (10, 64)])
def test_values_of_fewer_bits_in_sixteen_are_said_to_be_dark_with_what_to_do(bits: int, times: int, tmp_path: Path) -> None:
    paths = [deep(tmp_path / f"{number}.png", 2**bits - 1) for number in range(3)]
    (note,) = image_notes(paths)
    assert note.startswith(f"3 of 3 pictures looked at hold 16-bit grey that goes up to {2**bits - 1:,} of 65,535 (first: 0.png)")
    assert f"if the camera gave {bits} bits, save them as 16 (values times {times}) or scaled to 8" in note


def test_grey_that_uses_its_sixteen_bits_is_not_noted_nor_is_a_format_that_declares_fewer(tmp_path: Path) -> None:
    pgm = tmp_path / "a.pgm"
    pgm.write_bytes(b"P5 64 64 4095\n" + np.linspace(0, 4095, 4096).astype(">u2").tobytes())
    assert image_notes([deep(tmp_path / "a.png", 65535), pgm]) == []


def test_pictures_that_a_tag_turns_are_counted_and_said_to_be_read_as_stored_for_all(tmp_path: Path) -> None:
    paths = [tagged(tmp_path / f"{number}.jpg", tag) for number, tag in enumerate((None, 1, 6, 8, 2, 0, 9))]
    (note,) = image_notes(paths)
    assert note.startswith("3 of 7 pictures looked at carry an EXIF tag that turns or mirrors them (first: 2.jpg)")
    assert "the same for full attention and every contender" in note


def test_of_a_large_set_some_from_all_over_it_are_looked_at(tmp_path: Path) -> None:
    path = tagged(tmp_path / "a.jpg", 6)
    (note,) = image_notes([path] * (2 * LOOKED_AT))
    assert note.startswith("1000 of 1,000 pictures looked at")


def test_what_cannot_be_read_and_no_pictures_at_all_are_no_oddity(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n")
    assert image_notes([tmp_path / "a.png", tmp_path / "b.png"]) == image_notes([]) == []
