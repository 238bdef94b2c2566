"""Pictures: nothing of what they hold is lost without a word, and none takes all memory or all time."""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fna.data.base import Labelled
from fna.data.files import UNREADABLE
from fna.data.imagefolder import ImageFolder
from fna.data.loading import batches
from fna.data.pictures import SUFFIXES, files_below, open_image, pages_note
from fna.errors import UserError
from tests.data.test_loading import red

RAMP = np.linspace(0, 65535, 4096).reshape(64, 64)


def mean(path: Path) -> float:
    return float(np.asarray(open_image(path), np.float64).mean())


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_keeps_its_range(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RAMP.astype(np.uint16)).save(path)
    assert mean(path) == pytest.approx(127.5, abs=0.5)


def test_pgm_of_twelve_bits_is_scaled_by_its_own_white(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 64 64 4095\n" + (RAMP / 65535 * 4095).astype(">u2").tobytes())
    assert mean(path) == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_declared_range_are_unreadable_and_not_white(kind: type, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(RAMP.astype(kind)).save(path)
    with pytest.raises(ValueError, match="range is not declared"):
        open_image(path)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "1", "CMYK", "RGBA", "RGBX"])
def test_every_mode_of_eight_bits_keeps_its_grey(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray((RAMP / 257).astype(np.uint8)).convert("RGB" if mode in ("CMYK", "RGBA", "RGBX") else "L").convert(mode).save(
        path
    )
    assert mean(path) == pytest.approx(127.5, abs=1)


def test_every_suffix_of_torchvision_is_read(tmp_path: Path) -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert {*IMG_EXTENSIONS, ".jfif", ".jpe"} == SUFFIXES
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for suffix in SUFFIXES:
            Image.new("RGB", (8, 8)).save(tmp_path / "val" / name / f"a{suffix.upper()}", "JPEG" if suffix == ".jpe" else None)
    data = ImageFolder(str(tmp_path)).load(None)
    assert (len(data.examples), data.notes) == (2 * len(SUFFIXES), [])
    assert len(list(batches(data.examples, red, batch_size=4, skipped=[], strict=True))) == 6


def test_pictures_that_are_not_read_are_counted_and_hidden_files_are_none(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "val" / name / ".cache").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name / "a.png")
        for other in ("a.heic", "b.GIF", "._a.png", ".DS_Store", ".cache/b.png", "notes.txt"):
            (tmp_path / "val" / name / other).write_bytes(b"?")
    (tmp_path / "val/__MACOSX").mkdir()
    data = ImageFolder(str(tmp_path)).load(None)
    assert [example.key for example in data.examples] == ["cat/a.png", "dog/a.png"]
    (note,) = data.notes
    assert note.startswith("4 pictures left out: .gif, .heic is not read")


def test_pictures_without_a_suffix_that_says_so_are_counted_by_what_they_hold(tmp_path: Path) -> None:
    """As crawlers and archives of hashes leave them; what is no picture is none by another name either."""
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name / "a.png")
    for place, kind in (("cat/0a1b2c", "JPEG"), ("cat/b.jpg_large", "JPEG"), ("dog/c.tmp", "WEBP"), ("dog/d.1", "PNG")):
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / place, format=kind)
    (tmp_path / "val/dog/README").write_text("about dogs")
    (note,) = ImageFolder(str(tmp_path)).load(None).notes
    assert note.startswith("4 pictures left out: .1, .jpg_large, .tmp, no suffix is not read")


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.png").write_bytes(b"")
    os.symlink(tmp_path / "a", tmp_path / "a/round")
    os.symlink(tmp_path / "elsewhere", tmp_path / "a/linked")
    assert [path.name for path in files_below(tmp_path / "a")] == ["1.png"]


def test_a_folder_that_cannot_be_looked_into_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone: cannot be looked into \(No such file or directory\)"):
        files_below(tmp_path / "gone")


def png_that_says(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header declares a size that its data do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"),
    [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (12_000, 12_000), (200_000, 10), (1, 5_000), (9_000, 9_000), (0, 4)],
)
def test_extreme_sizes_are_skipped_and_counted_at_once(width: int, height: int, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(png_that_says(width, height))
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    examples = [Labelled(name, tmp_path / f"{name}.png", 0) for name in ("bad", "good")]
    skipped: list[str] = []
    began = time.process_time()
    (batch,) = batches(examples, red, batch_size=2, skipped=skipped)
    assert time.process_time() - began < 5
    assert batch.indices == [1]
    assert len(skipped) == 1
    assert skipped[0].startswith("bad: unreadable image (")


def test_a_picture_a_thousand_times_longer_than_high_is_skipped_before_it_is_resized(tmp_path: Path) -> None:
    Image.new("RGB", (20_000, 10)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match="20000x10: one side more than 100 times the other"):
        open_image(tmp_path / "long.png")
    Image.new("RGB", (1000, 10)).save(tmp_path / "long.png")
    assert open_image(tmp_path / "long.png").size == (1000, 10)


def test_no_memory_for_one_picture_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise MemoryError

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    with pytest.raises(UNREADABLE):
        open_image(tmp_path / "a.png")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "ppm"])
def test_whatever_a_damaged_file_makes_pillow_raise_is_one_of_unreadable(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray((RAMP[:32, :32] / 257).astype(np.uint8)).convert("RGB").save(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        for place in generator.integers(min(len(whole), 300), size=3):
            content[place] = generator.integers(256)
        path.write_bytes(content[: generator.integers(1, len(whole) + 1)])
        try:
            open_image(path)
        except UNREADABLE:
            continue


def test_a_pipe_called_as_a_picture_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    assert pages_note([tmp_path / "a.tif"]) == []
