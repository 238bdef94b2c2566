"""Damage to the small files of a run, at every byte: each is missing then and made again; no traceback, no failed row."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fna.data.base import Dataset, Labelled
from fna.masking.strategy import Masking
from fna.models.base import Model
from fna.ops.nystrom import FastNystrom
from fna.runner import auto
from fna.runner.rows import RowStore
from fna.tasks import calibration
from fna.tasks.cache import cached_rows
from fna.tasks.texts import class_texts
from tests.runner.test_rows import outcome
from tests.runner.test_stored_rows import Job, images, run
from tests.tasks.conftest import clip, eye

__all__ = ["clip", "eye", "images", "run"]
FOREIGN = (b"", b"\0" * 100, b"{}", b"null", b'{"status": "ok"}', b'{"status": "failed"}', b"\xff\xfe", b"PAR1", b"\x93NUMPY")


def damages(file: Path, step: int = 1) -> Iterator[str]:
    """Damage a file in every way there is, one at a time; it is put back at the end."""
    whole = file.read_bytes()
    contents = {
        f"byte {at}": whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :] for at in range(0, len(whole), step)
    }
    contents |= {f"cut to {length}": whole[:length] for length in range(0, len(whole), max(1, len(whole) // 50))}
    contents |= {f"{content[:20]!r}": content for content in (*FOREIGN, whole + b"\0", whole + whole, bytes(len(whole)))}
    for damage, content in contents.items():
        cleared(file).write_bytes(content)
        yield damage
    cleared(file)
    yield "gone"
    cleared(file).mkdir()
    yield "a folder"
    cleared(file).mkdir()
    (file / "with").write_text("something")
    yield "a full folder"
    cleared(file).write_bytes(whole)


def cleared(file: Path) -> Path:
    """The place of a file, with nothing in it."""
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    return file


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_row_damaged_in_any_byte_of_either_file_is_missing(tmp_path: Path, suffix: str) -> None:
    store = RowStore(tmp_path)
    store.put("k", outcome(), {"decides": {"a": 1}, "warnings": ["w"]})
    for damage in damages(tmp_path / f"k.{suffix}"):
        assert store.get("k") is None, damage
    assert store.get("k") is not None


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_row_is_stored_over_whatever_lies_in_its_place(tmp_path: Path, suffix: str) -> None:
    store = RowStore(tmp_path)
    (tmp_path / f"k.{suffix}" / "full").mkdir(parents=True)
    store.put("k", outcome(), {})
    assert store.get("k") is not None


def test_a_failed_row_damaged_in_any_byte_is_missing_and_never_another_failure(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    store.put_failed("k", "not finite", {"decides": {"a": 1}})
    for damage in damages(tmp_path / "k.json"):
        assert store.get("k") is None, damage


def test_a_row_under_another_name_is_missing(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    store.put("full", outcome(), {})
    for suffix in ("json", "parquet"):
        shutil.copy(tmp_path / f"full.{suffix}", tmp_path / f"variant.{suffix}")
    assert store.get("variant") is None
    assert store.get("full") is not None


def rows_of_ones(done: int) -> Iterator[np.ndarray]:
    for place in range(done, 3):
        yield np.full((1, 2), place + 1)


@pytest.mark.parametrize("name", ["x.npy", "x.rows.json"])
def test_kept_features_damaged_in_any_byte_are_made_again(tmp_path: Path, name: str) -> None:
    file, asked = tmp_path / "x.npy", []

    def pieces(done: int) -> Iterator[np.ndarray]:
        asked.append(done)
        return rows_of_ones(done)

    first = np.array(cached_rows(file, (3, 2), pieces))
    assert first.tolist() == [[1, 1], [2, 2], [3, 3]]
    for damage in damages(tmp_path / name):
        asked.clear()
        np.testing.assert_array_equal(cached_rows(file, (3, 2), pieces), first, damage)
        assert asked == [0], damage


def test_kept_features_of_another_name_are_made_again(tmp_path: Path) -> None:
    cached_rows(tmp_path / "x.npy", (3, 2), rows_of_ones)
    for suffix in ("npy", "rows.json"):
        shutil.copy(tmp_path / f"x.{suffix}", tmp_path / f"y.{suffix}")
    found = cached_rows(tmp_path / "y.npy", (3, 2), lambda done: iter([np.zeros((3, 2))]))
    assert not found.any()


def test_what_another_process_reads_stays_what_it_was_when_it_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    mapped = cached_rows(file, (3, 2), rows_of_ones)
    (tmp_path / "x.rows.json").unlink()
    cached_rows(file, (3, 2), lambda done: iter([np.zeros((3, 2))]))
    assert mapped[2].tolist() == [3, 3]


def test_a_text_cache_of_zeros_is_made_again(clip: Model, tmp_path: Path) -> None:
    first = class_texts(clip, ["red", "blue"], "simple", tmp_path)
    (file,) = (tmp_path / "texts").glob("*.npy")
    head = file.stat().st_size - first.numel() * 4
    with file.open("r+b") as opened:
        opened.seek(head)
        opened.write(bytes(first.numel() * 4))
    assert torch.equal(class_texts(clip, ["red", "blue"], "simple", tmp_path), first)


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch, eye: Model, tmp_path: Path) -> Callable[[], int]:
    """Calibrates a mask; how often it had to learn so far."""
    times = []

    def learn(*args: object) -> dict[str, object]:
        times.append(1)
        return {"detect": 3, "threshold": 1.5}

    monkeypatch.setattr(calibration, "_learn", learn)
    dataset: Dataset[Labelled] = Dataset("d", "val", "generated", "digest", [])

    def calibrate() -> int:
        found = calibration.calibrated(Masking(rule="log_gap"), eye, dataset, tmp_path)
        assert isinstance(found, Masking)
        assert (found.detect, found.threshold) == (3, 1.5)
        return len(times)

    return calibrate


def test_a_calibration_damaged_in_any_byte_is_made_again(learnt: Callable[[], int], tmp_path: Path) -> None:
    assert (learnt(), learnt()) == (1, 1)
    (file,) = tmp_path.glob("*.json")
    for count, damage in enumerate(damages(file), 2):
        assert learnt() == count, damage


def test_a_choice_of_auto_damaged_in_any_byte_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = auto.Choice({6: 8, 7: 0.5}, ["why"], {6: {8: 0.1, 0.5: 0.01}}, {8: 1.5})
    times = []

    def measured(*args: object) -> auto.Choice:
        times.append(1)
        return choice

    monkeypatch.setattr(auto, "_measured", measured)
    monkeypatch.setattr(auto, "_key", lambda *args: "key")
    asked = {"layers": "all", "landmarks": "auto", "cache": tmp_path}

    def choose() -> auto.Choice:
        return auto.choose(None, FastNystrom(), torch.zeros(1), **asked)  # type: ignore[arg-type]

    assert choose() == choose() == choice
    assert len(times) == 1
    for count, damage in enumerate(damages(tmp_path / "key.json"), 2):
        assert choose() == choice
        assert len(times) == count, damage


def test_whole_runs_over_damaged_files_give_the_same_result(run: Job, tmp_path: Path) -> None:
    words = ("attn=fna", "landmarks=auto", "layers=0", "timing.batch_size=2")
    first = run(*words)
    kept = sorted(file for folder in ("rows", "auto") for file in (tmp_path / folder).glob("[!.]*"))
    assert {file.suffix for file in kept} == {".json", ".parquet"}
    for content in (b"", b'{"status": "ok", "hash": 3}', None):
        for file in kept:
            if content is None:
                file.unlink()
                file.mkdir()
            else:
                file.write_bytes(content)
        again = run(*words)
        assert {key: again[key] for key in ("status", "metrics", "samples")} == {
            key: first[key] for key in ("status", "metrics", "samples")
        }


def test_a_full_row_copied_over_the_variants_is_not_read_as_it(run: Job, tmp_path: Path) -> None:
    words = ("attn=fna", "landmarks=8")
    first = run(*words)
    for suffix in ("json", "parquet"):
        shutil.copy(*(tmp_path / "rows" / f"{first['rows'][side]}.{suffix}" for side in ("full", "variant")))
    again = run(*words)
    assert again["fidelity"] == first["fidelity"]
    assert again["fidelity"]["output_error"] > 0


def test_warnings_do_not_vanish_when_the_row_is_read_back(run: Job) -> None:
    first = run("attn=fna", "landmarks=5000", "attn.inverse=exact")
    assert any("5000" in warning for warning in first["warnings"])
    assert run("attn=fna", "landmarks=5000", "attn.inverse=exact")["warnings"] == first["warnings"]


def test_a_trained_head_that_was_damaged_is_trained_again(tmp_path: Path) -> None:
    from fna.tasks import heads

    file = tmp_path / "head.safetensors"
    assert not heads._whole(file)
    heads._keep(file, heads._new(2, 3), {"classes": ["a", "b", "c"]})
    assert heads._whole(file)
    for damage in damages(file, step=7):
        assert not heads._whole(file), damage
    for damage in damages(file.with_suffix(".json")):
        assert not heads._whole(file), damage
    assert heads._whole(file)
