"""Prepared images on disk: what comes out is what the transform makes, to the bit, and nothing that is damaged is believed."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from fna.data import loading, prepared
from fna.data.base import Given, Labelled
from fna.data.loading import Batch, batches
from fna.data.prepared import Cache, what_it_does
from fna.data.reading import Reading
from fna.errors import UserError

COUNT = 40  # a part of 32, and one of 8
Usage = namedtuple("Usage", "total used free")


def made(size: int = 24, mean: float = 0.48, resize: int = 30) -> Any:
    """A transform as the models have them."""
    steps = [transforms.Resize(resize), transforms.CenterCrop(size), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize([mean, 0.46, 0.41], [0.27, 0.26, 0.28])])


def halved(image: Image.Image) -> Tensor:
    """Of bytes nothing gives this back."""
    return made()(image) / 2


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder's images."""
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def examples(tmp_path: Path) -> list[Labelled]:
    """Photographs in small; number 3 is cut in half, number 35 is no picture."""
    found = [Labelled(f"s{number}", tmp_path / "data" / f"{number}.jpg", 0) for number in range(COUNT)]
    (tmp_path / "data").mkdir()
    generator = np.random.default_rng(0)
    for example in found:
        Image.fromarray(generator.integers(0, 256, (34, 40, 3), dtype=np.uint8)).save(example.image)
    half = found[3].image.read_bytes()
    found[3].image.write_bytes(half[: len(half) // 2])
    found[35].image.write_text("hello")
    return found


class Passed:
    """A pass: its batches, what was skipped, how many images came from the cache, and what was told."""

    def __init__(self, examples: Any, transform: Any, *, cache: bool = True, workers: int = 0, start: int = 0) -> None:
        said: list[str] = []
        reading = Reading(workers, cache=Cache(said.append) if cache else None)
        self.said, self.skipped = said, list[str]()
        self.batches = list(batches(examples, transform, batch_size=7, skipped=self.skipped, reading=reading, start=start))
        self.cached = reading.cached

    def same(self, other: Passed) -> bool:
        """Whether both gave the same batches to the bit, and skipped the same in the same words."""
        return self.skipped == other.skipped and all(
            a.indices == b.indices and a.tried == b.tried and bits(a) == bits(b)
            for a, b in zip(self.batches, other.batches, strict=True)
        )


def bits(batch: Batch) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return batch.images.dtype, tuple(batch.images.shape), batch.images.contiguous().numpy().tobytes()


def files(folder: Path, suffix: str = "") -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file() and not path.name.startswith("."))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_pass_opens_no_picture_and_gives_the_same_to_the_bit(
    workers: int, examples: list[Labelled], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Passed(examples, made(), cache=False)
    first = Passed(examples, made(), workers=workers)
    assert (first.cached, first.said) == (0, [])
    assert first.same(plain)

    def opened(path: Path) -> None:
        raise AssertionError(f"{path} is opened")

    monkeypatch.setattr(loading, "open_image", opened)
    later = Passed(examples, made(), workers=workers)
    assert later.cached == COUNT
    assert later.same(plain)
    assert [line.partition(":")[0] for line in later.skipped] == ["s3", "s35"]


def test_they_are_kept_as_bytes(examples: list[Labelled], folder: Path) -> None:
    Passed(examples, made())
    pixels = (COUNT - 2) * 3 * 24 * 24
    assert pixels < sum(file.stat().st_size for file in files(folder, ".safetensors")) < 1.3 * pixels


def _of_timm() -> Any:
    import timm

    return timm.data.transforms_factory.transforms_imagenet_eval(img_size=(24, 32), interpolation="bicubic", crop_pct=0.875)


def _of_open_clip(crop: float) -> Any:
    from fna.models.open_clip_pixels import transform

    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return transform({"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}, (24, 24), crop)


def _of_transformers() -> Any:
    from fna.models.hf_pixels import transform

    return transform({"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize": [24, 24], "crop": None}, (24, 24))


WAYS = {
    "timm": _of_timm,
    "open_clip": lambda: _of_open_clip(1),
    "open_clip, cropped": lambda: _of_open_clip(0.9),
    "transformers": _of_transformers,
    "without a scale": lambda: transforms.Compose([transforms.CenterCrop(24), transforms.ToTensor()]),
    "bytes, for label maps": lambda: pil_to_tensor,
    "what no bytes give back": lambda: halved,
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_the_transform_makes_comes_back(way: str, examples: list[Labelled]) -> None:
    Passed(examples, WAYS[way]())
    later = Passed(examples, WAYS[way]())
    assert later.cached == COUNT
    assert later.same(Passed(examples, WAYS[way](), cache=False))


def test_images_that_take_four_times_the_room_are_told_once(examples: list[Labelled]) -> None:
    (line,) = Passed(examples, halved).said
    assert "kept as floats" in line


@pytest.mark.parametrize("other", [made(mean=0.5), made(size=25), made(resize=29), _of_timm()])
def test_another_transform_is_another_cache(other: Any, examples: list[Labelled]) -> None:
    Passed(examples, made())
    changed = Passed(examples, other)
    assert changed.cached == 0
    assert changed.same(Passed(examples, other, cache=False))


def test_another_version_of_a_library_or_of_the_code_is_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    before = what_it_does(made())
    assert what_it_does(made()) == before
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "version", lambda name: "99")
        assert what_it_does(made()) != before
    monkeypatch.setattr(prepared, "_code", lambda module: "edited" if module == "fna.data.pictures" else "")
    edited = what_it_does(made())
    monkeypatch.setattr(prepared, "_code", lambda module: "")
    assert what_it_does(made()) != edited


def test_a_picture_that_holds_something_else_is_read_anew(examples: list[Labelled]) -> None:
    Passed(examples, made())
    Image.new("RGB", (40, 40), "red").save(examples[33].image)
    changed = Passed(examples, made())
    assert changed.cached == 32  # the other part
    assert changed.same(Passed(examples, made(), cache=False))


def test_moved_pictures_are_found(examples: list[Labelled], tmp_path: Path) -> None:
    Passed(examples, made())
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = [Labelled(example.key, tmp_path / "moved" / example.image.name, 0) for example in examples]
    assert Passed(moved, made()).cached == COUNT


def test_fewer_pictures_take_what_is_there_of_them(examples: list[Labelled]) -> None:
    Passed(examples, made())
    assert Passed(examples[:34], made()).cached == 32


def _flipped(file: Path, others: list[Path]) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _cut(file: Path, others: list[Path]) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _anothers(file: Path, others: list[Path]) -> None:
    shutil.copy(next(other for other in others if other != file), file)


DAMAGE = {"a bit": _flipped, "cut": _cut, "another's": _anothers, "gone": lambda file, others: file.unlink()}


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_missing_and_made_again(how: str, suffix: str, examples: list[Labelled], folder: Path) -> None:
    plain = Passed(examples, made())
    others = files(folder, suffix)
    DAMAGE[how](others[0], others)
    after = Passed(examples, made())
    assert after.cached in (32, COUNT - 32)
    assert after.same(plain)
    assert Passed(examples, made()).cached == COUNT


def test_a_folder_in_its_place_is_moved_away(examples: list[Labelled], folder: Path) -> None:
    Passed(examples, made())
    (file, _) = files(folder, ".safetensors")
    file.unlink()
    (file / "mine").mkdir(parents=True)
    assert Passed(examples, made()).cached < COUNT
    assert Passed(examples, made()).cached == COUNT
    assert [path.name for path in folder.rglob("mine")] == ["mine"]


def test_a_pass_that_stops_leaves_whole_parts_only(examples: list[Labelled], folder: Path) -> None:
    reading = Reading(cache=Cache(print))
    reader: Iterator[Batch] = batches(examples, made(), batch_size=7, skipped=[], reading=reading)
    for _ in range(5):  # 35 of 40
        next(reader)
    reader.close()
    assert len(files(folder)) == 2
    assert Passed(examples, made()).cached == 32


def test_a_pass_that_begins_in_the_middle_takes_what_is_there_and_leaves_no_half(examples: list[Labelled], folder: Path) -> None:
    Passed(examples, made(), start=20)
    assert len(files(folder)) == 2
    assert Passed(examples, made()).cached == 8
    late = Passed(examples, made(), start=20)
    assert late.cached == 20
    assert late.same(Passed(examples, made(), start=20, cache=False))


def test_two_at_once_each_read_for_themselves(examples: list[Labelled], folder: Path) -> None:
    plain = Passed(examples, made(), cache=False)
    readers = [batches(examples, made(), batch_size=7, skipped=[], reading=Reading(cache=Cache(print))) for _ in range(2)]
    for both, one in zip(zip(*readers, strict=True), plain.batches, strict=True):
        assert bits(both[0]) == bits(both[1]) == bits(one)
    assert len(files(folder)) == 4
    assert Passed(examples, made()).cached == COUNT


def test_no_room_is_one_line_and_the_pass_goes_on(examples: list[Labelled], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Passed(examples, made(), cache=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, prepared.RESERVE + 1000))
    full = Passed(examples, made())
    (line,) = full.said
    assert "FNA_CACHE=PATH; the run goes on without it" in line
    assert full.same(plain)
    assert files(folder) == []


@pytest.mark.parametrize("name", ["write_atomic", "write_record"])
def test_a_disk_that_fills_meanwhile_is_one_line_and_leaves_nothing_that_counts(
    name: str, examples: list[Labelled], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *what: Any) -> None:
        raise UserError(f"{path}: cannot be written (no space); free some room there.") from OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(prepared, name, full)
        passed = Passed(examples, made())
    (line,) = passed.said
    assert line.startswith("data_cache: ")
    assert line.endswith("free some room there; the run goes on without it")
    assert Passed(examples, made()).cached == 0


def test_a_cache_folder_that_cannot_be_is_one_line(examples: list[Labelled], folder: Path) -> None:
    folder.parent.write_text("a file")
    passed = Passed(examples, made())
    (line,) = passed.said
    assert line.startswith(f"data_cache: {folder}")
    assert line.endswith("give another folder with FNA_CACHE=PATH; the run goes on without it")
    assert passed.same(Passed(examples, made(), cache=False))


def test_what_the_system_says_is_not_remembered(examples: list[Labelled], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails now, or memory that runs out, says nothing of the picture."""
    real = loading.open_image

    def failing(path: Path) -> Image.Image:
        if path.name == "2.jpg":
            raise OSError(errno.EIO, "Input/output error")
        if path.name == "34.jpg":
            raise MemoryError
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(loading, "open_image", failing)
        assert len(Passed(examples, made()).skipped) == 4
    after = Passed(examples, made())
    assert after.cached == 0
    assert after.same(Passed(examples, made(), cache=False))


def test_a_picture_that_is_not_there_is_not_remembered(examples: list[Labelled]) -> None:
    content = examples[2].image.read_bytes()
    examples[2].image.unlink()
    Passed(examples, made())
    examples[2].image.write_bytes(content)
    after = Passed(examples, made())
    assert after.cached == 8
    assert after.same(Passed(examples, made(), cache=False))


def test_a_picture_that_changes_while_it_is_read_is_not_kept(examples: list[Labelled]) -> None:
    reader = batches(examples, made(), batch_size=7, skipped=[], reading=Reading(cache=Cache(print)))
    next(reader)
    before = examples[1].image.read_bytes()
    Image.new("RGB", (40, 40), "red").save(examples[1].image)
    list(reader)
    examples[1].image.write_bytes(before)
    assert Passed(examples, made()).cached == COUNT - 32


def test_a_transform_without_a_name_is_told_once_and_nothing_is_kept(examples: list[Labelled], folder: Path) -> None:
    passed = Passed(examples, lambda image: made()(image))
    assert passed.said == ["data_cache: the model's transform cannot be told from others, images are prepared anew in every run"]
    assert not folder.exists()


def test_images_of_a_loader_of_ones_own_are_no_files() -> None:
    given = [Given("a", torch.zeros(3, 4, 4))]
    assert Passed(given, made()).same(Passed(given, made(), cache=False))
