"""A run that was killed: the report says that it was started and never finished, and how to go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.report.page import write_page
from fna.report.results import load
from fna.report.table import sweep_markdown
from tests.report.made_up_results import result, write_run
from tests.report.test_table import printed


def started(folder: Path, *words: str) -> Path:
    """What Hydra notes in a run's folder before the run begins."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    return folder


def test_a_killed_run_is_told_with_the_command_that_goes_on_with_it(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result(overrides=["landmarks=64"]))
    started(tmp_path / "1", "attn=fna", "landmarks=16")
    text = printed(load(tmp_path))
    assert "1 comparison with full attention and 1 unfinished run" in text
    assert "started, never finished (or still running): " in text
    assert "attn=fna landmarks=16 goes on with it, finished rows stay" in text
    assert "attn=fna landmarks=16 goes on with it" in write_page(tmp_path).read_text()


def test_a_run_without_an_end_is_not_called_failed(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result(overrides=["landmarks=64"]))
    started(tmp_path / "1", "attn=fna", "landmarks=16")
    for text in (printed(load(tmp_path)), sweep_markdown(load(tmp_path)), write_page(tmp_path).read_text().partition("<main>")[2]):
        assert "failed" not in text.lower()
    assert [
        line for line in printed(load(tmp_path)).splitlines() if line.startswith("unfinished in folder 1: started, never finished")
    ]


def test_a_folder_of_killed_runs_alone_is_no_empty_folder(tmp_path: Path) -> None:
    started(tmp_path / "1", "attn=fna")
    assert [run.result["status"] for run in load(tmp_path)] == ["unfinished"]
    assert "never finished" in printed(load(tmp_path))


def test_a_killed_job_of_a_sweep_is_gone_on_with_by_the_sweep(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result())
    started(tmp_path / "1", "attn=fna", "landmarks=16")
    (tmp_path / "multirun.yaml").write_text("hydra:\n  overrides:\n    task:\n    - landmarks=64,16\n")
    [lost] = [run for run in load(tmp_path) if not run.ok]
    assert f"-m landmarks=64,16 hydra.sweep.dir={tmp_path} goes on with it" in lost.result["error"]


def test_the_page_of_a_killed_run_alone_says_what_that_is(tmp_path: Path) -> None:
    started(tmp_path / "1", "attn=fna")
    assert "<h1>A run was started, never finished (or still running): python" in write_page(tmp_path).read_text()


def test_what_was_made_again_since_is_not_told(tmp_path: Path) -> None:
    started(tmp_path / "0", "attn=fna", "landmarks=16")
    write_run(tmp_path / "1", result(overrides=["attn=fna", "landmarks=16"]))
    assert [run.name for run in load(tmp_path)] == ["1"]


@pytest.mark.parametrize("noted", ["{", "word", ""])
def test_notes_that_make_no_sense_are_no_run(tmp_path: Path, noted: str) -> None:
    write_run(tmp_path / "0", result())
    (tmp_path / "1/.hydra").mkdir(parents=True)
    (tmp_path / "1/.hydra/overrides.yaml").write_text(noted)
    assert [run.name for run in load(tmp_path)] == ["0"]
