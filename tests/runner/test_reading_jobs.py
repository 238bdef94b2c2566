"""Whole jobs with loading processes and prepared images: the rows are the same, the result says what reading took."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fna.data import loading
from fna.data import reading as readings
from fna.runner import job
from tests.test_conf import composed

Job = Callable[..., dict[str, Any]]
NAMES = {"model": "vit", "dataset": "imagefolder", "task": "classification", "attn": "exact"}
TINY = ("model.name=test_vit", "model.random=true", "model.num_classes=3", "timing.enabled=false", "gallery=0", "bootstrap=100")


@pytest.fixture
def run(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Run one job, with rows of its own; returns its result.json."""
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "cache"))
    count = iter(range(100))

    def one(*words: str, task: str = "classification") -> dict[str, Any]:
        names, number = {**NAMES, "task": task}, next(count)
        groups = [f"{group}={option}" for group, option in names.items()]
        places = (f"dataset.root={image_folder}", f"rows_dir={tmp_path / f'rows{number}'}")
        job.run(composed(*groups, *TINY, *places, *words), names, tmp_path / "run")
        return dict(json.loads((tmp_path / "run" / "result.json").read_text()))

    return one


def decided(result: dict[str, Any]) -> Any:
    """The rows' names and what they say."""
    return result["rows"], result["metrics"], result["fidelity"]


def test_a_job_with_prepared_images_is_the_same_and_reads_none(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, first = run(), run("data_cache=true")
    monkeypatch.setattr(loading, "transformed", lambda example, transform: pytest.fail(f"{example.key} is read"))
    later = run("data_cache=true")
    assert decided(plain) == decided(first) == decided(later)
    assert [one["reading"]["from_cache"] for one in (plain, first, later)] == [0, 0, 12]


def test_processes_of_their_own_choice_leave_the_rows_as_they_are(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "choose", lambda *args, **more: (1, "1 started"))
    plain, auto = run("batch_size=2"), run("batch_size=2", "workers=auto")
    assert decided(plain) == decided(auto)
    assert (auto["reading"]["workers"], auto["reading"]["auto"]) == (1, "1 started")


@pytest.mark.parametrize("words", [("dataset.bank=2",), ("dataset.bank=2", "task.refit=true")])
def test_images_to_learn_from_are_prepared_once_too(words: tuple[str, ...], run: Job, tmp_path: Path) -> None:
    found = [run("data_cache=true", f"task.cache={tmp_path / name}", *words, task="knn") for name in ("one", "two")]
    assert decided(found[0]) == decided(found[1])
    assert [one["reading"]["read"] - one["reading"]["from_cache"] for one in found] == [12, 0]


def test_where_reading_limits_the_result_says_so(run: Job, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(readings, "LEAST", 0.0)
    monkeypatch.setattr(readings, "LIMITS", -1.0)
    result = run()
    (note,) = (note for note in result["notes"] if note.startswith("reading takes "))
    assert note.endswith(" % of the time: workers=auto or data_cache=true")
    assert note in capsys.readouterr().err
    assert set(result["reading"]["images_per_second"]) == {"read", "forward"}


def test_a_job_whose_rows_are_there_reads_nothing_and_says_nothing_of_it(run: Job, tmp_path: Path) -> None:
    words = (f"rows_dir={tmp_path / 'same'}",)
    assert run(*words)["reading"]
    assert run(*words)["reading"] == {}
