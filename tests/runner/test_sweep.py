"""A sweep as a whole: what it refuses, what it counts, and that its exit status tells of every failure."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from fna.errors import UserError
from fna.report import page
from fna.runner import sweep
from fna.runner.cli import main
from fna.runner.sweep import SweepReport
from fna.runner.sweeps import refuse_chdir, refuse_of_sweep, refuse_others
from tests.conftest import Cli
from tests.report.made_up_results import failed, result, write_run

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "model=clip",
    "image_size=64",
    "limit=4",
    "dataset.count=8",
    "timing.enabled=false",
    "gallery=0",
    "bootstrap=100",
    "attn=exact",
)


def config(folder: Path, *words: str) -> Any:
    return OmegaConf.create(
        {"hydra": {"sweep": {"dir": str(folder), "subdir": "${hydra.job.num}"}, "overrides": {"task": list(words)}}}
    )


def ended(folder: Path, callback: SweepReport | None = None) -> int:
    """The exit status that the end of a sweep in this folder comes to."""
    try:
        (callback or SweepReport()).on_multirun_end(config(folder))
    except SystemExit as left:
        return int(str(left.code))
    return 0


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    return line


def test_whole_results_are_a_whole_sweep(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result())
    assert ended(tmp_path) == 0
    assert {"report.html", "results.csv", "table.md"} <= {file.name for file in tmp_path.iterdir()}


def test_a_failed_job_and_a_page_that_cannot_be_written_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "0", result())
    write_run(tmp_path / "1", failed())
    (tmp_path / "report.html").mkdir()
    assert ended(tmp_path) == 1
    line = one_error(capsys)
    assert "1 of 2 jobs failed" in line
    assert "report.html: cannot be written (Is a directory)" in line
    assert (tmp_path / "results.csv").is_file()
    assert (tmp_path / "table.md").is_file()


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.ENOSPC, "No space left on device", "x"), MemoryError()])
def test_whatever_goes_wrong_at_the_end_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def wrong(*args: Any) -> None:
        raise error

    write_run(tmp_path / "0", result())
    monkeypatch.setattr(page, "render", wrong)
    assert ended(tmp_path) == 1
    assert one_error(capsys)
    assert (tmp_path / "traceback.txt").is_file() == isinstance(error, RuntimeError)


def test_no_result_at_all_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(tmp_path) == 1
    assert "no job was run" in one_error(capsys)


def test_a_result_that_is_no_json_counts_as_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_run(tmp_path / "0", result()) / "result.json").write_text('{"schema": 1')
    assert ended(tmp_path) == 1
    assert "1 of 1 jobs failed" in one_error(capsys)


def test_what_lay_there_before_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "refuse_no_job", lambda words: None)
    monkeypatch.setattr(sweep, "take", lambda *which: None)
    for name in ("0", "7"):
        write_run(tmp_path / name, failed())
    callback = SweepReport()
    callback.on_multirun_start(config(tmp_path))
    (tmp_path / "0" / "result.json").unlink()
    write_run(tmp_path / "0", result())
    assert ended(tmp_path, callback) == 0
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 2


def test_a_folder_of_another_sweep_is_refused_and_the_same_one_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result())
    OmegaConf.save(config(tmp_path, "landmarks=8,16"), tmp_path / "multirun.yaml")
    refuse_others(tmp_path, ["landmarks=8,16"])
    with pytest.raises(UserError, match=r"holds another sweep \(landmarks=8,16\); give another hydra\.sweep\.dir"):
        refuse_others(tmp_path, ["landmarks=8"])
    refuse_others(tmp_path, ["landmarks=8,16", "retry_failed=true"])
    for content in ("", "[]", "{", "hydra: 3", "hydra: {overrides: {task: 3}}", "\0"):
        (tmp_path / "multirun.yaml").write_text(content)
        refuse_others(tmp_path, ["landmarks=8"])


def test_a_sweep_in_the_folder_of_a_run_is_refused(tmp_path: Path) -> None:
    """Its report would be written over the run's."""
    write_run(tmp_path, result())
    with pytest.raises(UserError, match=r"holds a single run; give another hydra\.sweep\.dir"):
        refuse_others(tmp_path, ["landmarks=8"])


def test_a_run_in_the_folder_of_a_sweep_or_of_a_job_of_one_is_refused(tmp_path: Path) -> None:
    """Of a job that is yet to come as well, and of one whose sweep was noted elsewhere."""
    (tmp_path / "multirun.yaml").touch()
    with pytest.raises(UserError, match=r"holds a sweep; give another hydra\.run\.dir"):
        refuse_of_sweep(tmp_path)
    moved, own = tmp_path / "elsewhere" / "moved", tmp_path / "elsewhere" / "own"
    for folder, mode in ((moved, "MULTIRUN"), (own, "RUN")):
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save({"hydra": {"mode": mode}}, folder / ".hydra" / "hydra.yaml")
    for folder in (tmp_path / "3", moved):
        with pytest.raises(UserError, match=r"is the folder of a job of a sweep; give another hydra\.run\.dir"):
            refuse_of_sweep(folder)
    refuse_of_sweep(own)
    refuse_of_sweep(tmp_path / "name")


def test_a_job_in_another_current_folder_is_refused() -> None:
    """Rows would be kept in each run's own folder, and paths that were typed would mean others."""
    for chdir in (None, False):
        refuse_chdir(OmegaConf.create({"hydra": {"job": {"chdir": chdir}}}))
    with pytest.raises(UserError, match=r"^hydra\.job\.chdir=true: paths such as dataset\.root"):
        refuse_chdir(OmegaConf.create({"hydra": {"job": {"chdir": True}}}))


@pytest.mark.parametrize("word", ["attn=glob(x*)", "landmarks=range(16,16)", "landmarks=range(5,1)"])
@pytest.mark.parametrize("more", [(), ("hydra/launcher=joblib",)])
def test_a_word_without_a_value_is_no_job(
    word: str, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["run.py", "-m", word, "seed=0,1", *more])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert re.search(r"names no value, so that there is no job|matches none of agent", one_error(capsys))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")])
def test_a_sweep_whose_page_cannot_be_written_exits_1(cli: Cli, tmp_path: Path, launcher: tuple[str, ...]) -> None:
    (tmp_path / "S" / "report.html").mkdir(parents=True)
    words = ("-m", "layers=0,1,99", *TINY, "hydra.sweep.dir=S", *launcher)
    done = cli(*words)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "1 of 3 jobs failed" in line
    assert "report.html: cannot be written" in line
    (tmp_path / "S" / "report.html").rmdir()
    found = [json.loads(file.read_text())["status"] for file in sorted((tmp_path / "S").glob("*/result.json"))]
    assert found == ["ok", "ok", "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")])
def test_a_job_that_cannot_write_even_its_failure_is_one_error(
    cli: Cli, tmp_path: Path, launcher: tuple[str, ...], blocked: Callable[[Path], None]
) -> None:
    blocked(tmp_path / "S" / "2")  # two at once: begun when one of the first two is done, and the other may be under way
    done = cli("-m", "layers=0,1,all", *TINY, "hydra.sweep.dir=S", *launcher)
    assert done.returncode == 1, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, done.stderr
    assert "result.json" in done.stderr
    assert "Error executing job" not in done.stderr  # Hydra's
    found = [json.loads(file.read_text())["status"] for file in (tmp_path / "S").glob("[01]/result.json")]
    assert found == ["ok"] * (len(found) if launcher else 2)
    assert ",ok," in (tmp_path / "S" / "results.csv").read_text(), "what is done is reported"


@pytest.fixture
def blocked() -> Callable[[Path], None]:
    """Make a run folder in which no result can be written: a folder lies in its place."""

    def block(folder: Path) -> None:
        os.makedirs(folder / "result.json" / "x")

    return block


@pytest.mark.parametrize(("subdir", "told"), [("${seed}", "in 0;"), ("run", "in run;"), ("lm_${batch_size}", "in lm_32;")])
def test_a_folder_that_is_the_same_for_two_jobs_is_refused_before_the_first(subdir: str, told: str, tmp_path: Path) -> None:
    words = ["-m", "landmarks=16,32", f"hydra.sweep.dir={tmp_path / 'sweep'}", f"hydra.sweep.subdir={subdir}"]
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"error: hydra.sweep.subdir={subdir}: a job would write over another one {told} leave it out")
    assert not (tmp_path / "sweep").exists()


def test_a_folder_that_every_job_has_for_itself_is_taken(tmp_path: Path) -> None:
    """By the value that is swept; each job is refused for its data, in its own folder."""
    words = [
        "-m",
        "seed=1,2",
        "dataset=images",
        f"dataset.root={tmp_path / 'none'}",
        f"hydra.sweep.dir={tmp_path}",
        "hydra.sweep.subdir=s${seed}",
    ]
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=tmp_path, capture_output=True, text=True)
    assert "2 of 2 jobs failed" in done.stderr
    assert (tmp_path / "s1" / "result.json").is_file()
    assert (tmp_path / "s2" / "result.json").is_file()
