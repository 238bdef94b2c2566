"""Batches of images: order, workers, and images that cannot be read."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fna.data.base import Labelled
from fna.data.loading import batches, open_image
from fna.data.reading import Reading
from fna.errors import UserError


def red(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy())[..., 0].float().mean().expand(3, 2, 2)


@pytest.fixture
def examples(tmp_path: Path) -> list[Labelled]:
    """Seven images of red value 10, 20, ...; number 2 is cut in half, number 5 is no image, number 6 is not there."""
    made = [Labelled(f"s{number}", tmp_path / f"{number}.jpg", 0) for number in range(7)]
    for number, example in enumerate(made):
        Image.new("RGB", (64, 64), (10 * number, 0, 0)).save(example.image)
    half = made[2].image.read_bytes()
    made[2].image.write_bytes(half[: len(half) // 2])
    made[5].image.write_text("hello")
    made[6].image.unlink()
    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_skipping(workers: int, examples: list[Labelled]) -> None:
    skipped: list[str] = []
    found = list(batches(examples, red, batch_size=3, skipped=skipped, reading=Reading(workers)))
    assert [batch.indices for batch in found] == [[0, 1], [3, 4], []]
    assert [batch.tried for batch in found] == [3, 3, 1]
    assert found[1].images[:, 0, 0, 0].round().tolist() == [30.0, 40.0]
    assert [line.split(":")[0] for line in skipped] == ["s2", "s5", "s6"]
    assert all("\n" not in line and str(examples[0].image.parent) not in line for line in skipped)


def test_strict_stops_at_the_first(examples: list[Labelled]) -> None:
    with pytest.raises(UserError, match=r"2\.jpg: unreadable image .*strict=false"):
        list(batches(examples, red, batch_size=3, skipped=[], strict=True))


def test_nothing_readable_is_an_error(examples: list[Labelled]) -> None:
    with pytest.raises(UserError, match=r"none of the 2 images could be read \(first: .*5\.jpg: unreadable image"):
        list(batches(examples[5:], red, batch_size=3, skipped=[]))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA"])
def test_every_kind_of_image_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.jpg" if mode in ("L", "CMYK") else "image.png")
    Image.new(mode, (4, 4)).save(path)
    assert open_image(path).mode == "RGB"


def killed(image: Image.Image) -> torch.Tensor:
    """As the system does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def starved(image: Image.Image) -> torch.Tensor:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")


@pytest.mark.parametrize(("transform", "why"), [(killed, "DataLoader worker"), (starved, "No space left on device")])
def test_a_loading_process_that_the_system_ends_or_starves_is_one_line(transform: Any, why: str, examples: list[Labelled]) -> None:
    with pytest.raises(UserError, match=rf"^workers=1: the system ended .*{why}.*workers=0 reads in this process") as told:
        list(batches(examples[:2], transform, batch_size=1, skipped=[], reading=Reading(1)))
    assert "Traceback" not in str(told.value)


def test_shared_memory_that_is_full_is_one_line_and_not_waited_for(examples: list[Labelled], monkeypatch: Any) -> None:
    def full(tensor: torch.Tensor) -> None:
        starved(tensor)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(UserError, match=r"^workers=1: .*shared memory.*No space left.*workers=0 reads in this process"):
        list(batches(examples[:2], red, batch_size=1, skipped=[], reading=Reading(1)))


def test_a_bug_in_a_loading_process_stays_one(examples: list[Labelled]) -> None:
    def wrong(image: Image.Image) -> torch.Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(batches(examples[:2], wrong, batch_size=1, skipped=[], reading=Reading(1)))
