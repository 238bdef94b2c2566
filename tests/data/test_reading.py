"""What reading takes beside the forward passes, and how many loading processes pay."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from fna.data import reading as readings
from fna.data.base import Labelled
from fna.data.loading import Kept, batches
from fna.data.prepared import Cache
from fna.data.reading import Reading, choose

MEGABYTE = 1 << 20


def chosen(read: float, forward: float, *, left: int = 5000, cores: int = 8, threads: int = 1, room: int | None = None) -> int:
    """Processes for so many milliseconds an image."""
    return choose(left, read / 1e3, forward / 1e3, MEGABYTE, batch=32, cores=cores, threads=threads, room=room)[0]


def test_as_many_processes_as_keep_the_model_busy_and_no_more() -> None:
    assert chosen(10, 10) == 1
    assert chosen(10, 5) == 2
    assert chosen(10, 2.5) == 4
    assert chosen(100, 1) == 8  # all cores


def test_none_where_none_pays() -> None:
    assert chosen(0.1, 10) == 0  # reading costs nothing
    assert chosen(10, 5, left=10) == 0  # starting costs more
    assert chosen(1, 10, threads=8) == 0  # the forward has all cores
    assert chosen(10, 10, cores=1, threads=1) == 0
    assert chosen(10, 5, room=64 * MEGABYTE) == 0  # docker's shared memory: a bus error


def test_a_forward_on_all_cores_leaves_them_to_a_reader_that_needs_long() -> None:
    assert chosen(20, 1, threads=8) > 1


@pytest.fixture
def examples(tmp_path: Path) -> list[Labelled]:
    found = [Labelled(f"s{number}", tmp_path / f"{number}.png", 0) for number in range(24)]
    for number, example in enumerate(found):
        Image.new("RGB", (2, 2), (10 * number, 0, 0)).save(example.image)
    return found


def slow(image: Image.Image) -> torch.Tensor:
    time.sleep(0.02)
    return torch.full((3, 2, 2), float(image.getpixel((0, 0))[0]))  # type: ignore[index]


def quick(image: Image.Image) -> torch.Tensor:
    return torch.full((3, 2, 2), float(image.getpixel((0, 0))[0]))  # type: ignore[index]


def test_auto_looks_at_the_second_batch_and_gives_the_same(examples: list[Labelled], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "cores", lambda: 2)
    monkeypatch.setattr(readings, "START", 0.01)
    reading = Reading("auto", batch_size=4)
    found = []
    for batch in batches(examples, slow, batch_size=4, skipped=[], reading=reading):
        time.sleep(0.02)
        found.append((batch.indices, batch.images.tolist(), reading.chosen))
    plain = batches(examples, slow, batch_size=4, skipped=[])
    assert [(indices, images) for indices, images, _ in found] == [(batch.indices, batch.images.tolist()) for batch in plain]
    assert [count for *_, count in found[:2]] == [None, None]
    assert reading.chosen is not None
    assert reading.chosen > 0
    assert "ms to read an image" in reading.record()["auto"]
    assert reading.record()["workers"] == reading.chosen


def test_batches_of_one_image_are_looked_at_as_long(examples: list[Labelled]) -> None:
    """As segmentation reads them: the forward comes once in ``batch_size`` images."""
    reading = Reading("auto", batch_size=8)
    counts = []
    for _ in batches(examples, quick, batch_size=1, skipped=[], reading=reading):
        counts.append(reading.chosen)
    assert counts[:16] == [None] * 16
    assert counts[16] is not None


def test_too_few_images_to_tell_start_none(examples: list[Labelled]) -> None:
    reading = Reading("auto", batch_size=16)
    list(batches(examples, quick, batch_size=16, skipped=[], reading=reading))
    assert (reading.record()["workers"], reading.record()["auto"]) == (0, "too few images to tell, none started")


def test_waiting_and_the_forward_are_told_apart(examples: list[Labelled]) -> None:
    reading = Reading(batch_size=8)
    for _ in batches(examples, slow, batch_size=8, skipped=[], reading=reading):
        time.sleep(0.05)
    record = reading.record()
    assert record["read"] == 24
    assert 0.48 <= record["seconds"]["waited"] < 3
    assert 0.15 <= record["seconds"]["forward"] < 2
    assert record["images_per_second"]["read"] <= 50
    assert record["share"] == pytest.approx(reading.waited / (reading.waited + reading.forward), abs=1e-3)


def test_a_second_pass_from_memory_counts_for_the_forward_alone(examples: list[Labelled]) -> None:
    reading, kept = Reading(), Kept(1 << 20)
    for _ in range(2):
        list(kept.batches(examples, quick, batch_size=8, skipped=[], reading=reading))
    assert (reading.read, reading.images) == (24, 48)


def test_reading_that_limits_is_told_with_what_to_try() -> None:
    def told(reading: Reading) -> list[str]:
        reading.read, reading.images, reading.busy, reading.waited, reading.forward = 100, 100, 6.3, 6.3, 3.7
        return reading.notes()

    assert told(Reading()) == ["reading takes 63 % of the time: workers=auto or data_cache=true"]
    assert told(Reading("auto")) == ["reading takes 63 % of the time: data_cache=true"]
    assert told(Reading(2, cache=Cache(print))) == ["reading takes 63 % of the time"]


def test_nothing_is_told_where_it_does_not_limit_or_takes_no_time() -> None:
    assert Reading(waited=0.9, forward=0.1).notes() == []
    assert Reading(waited=5, forward=6).notes() == []
    assert Reading().record() == {}


def test_kept_features_are_not_told_as_a_forward() -> None:
    """A pass whose features were kept takes no forward: 64,915 images a second of one were told."""
    assert "the passes took 1,500 a second" in Reading(read=30, busy=1.0, images=3000, forward=2.0, waited=1.0).sentence()
    said = Reading(read=30, busy=1.0, images=30, forward=0.0005, waited=1.4).sentence()
    read, _, forward = said.partition("; ")
    assert read == "reading: 30 images a second by one process (decode and transform)"
    assert forward == "the model's features were kept from before, so that all the time is that of reading"
