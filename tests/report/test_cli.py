"""``python -m fna.report`` from end to end, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fna.report.__main__ import main
from tests.report.made_up_results import failed, write_run

ROOT = Path(__file__).parents[2]


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_sweep_gets_one_csv_and_one_page(sweep_folder: Path) -> None:
    write_run(sweep_folder / "9", failed("made-up reason"))
    done = call("-m", "fna.report", sweep_folder)
    assert done.returncode == 0, done.stderr
    for name in ("results.csv", "report.html"):
        assert (sweep_folder / name).stat().st_size > 0
        assert str(sweep_folder / name) in done.stdout
        assert len(list(sweep_folder.rglob(name))) == 1
    assert "failed in folder 9: made-up reason" in done.stdout


def test_a_result_that_cannot_be_read_is_an_error_once_the_others_are_reported(
    sweep_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed run is read and told, and no error of the report's; one that is cut off is."""
    (sweep_folder / "half").mkdir()
    (sweep_folder / "half/result.json").write_text('{"schema": 1,')
    assert main([str(sweep_folder)]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: 1 of ")
    assert told.err.count("\n") == 1
    assert "in folder half: result.json cannot be read" in told.out
    assert (sweep_folder / "report.html").stat().st_size > 0


def test_what_a_user_can_mend_is_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = call("-m", "fna.report", folder)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert str(folder) in done.stderr


def test_an_empty_word_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, failed("of another folder than the one that was meant"))
    monkeypatch.chdir(tmp_path)
    assert main([""]) == 1
    assert capsys.readouterr().err.startswith("error: FOLDER is empty, perhaps a variable of the shell that is not set;")
    assert not (tmp_path / "report.html").exists()


def test_several_folders_are_told_to_be_given_by_the_one_above_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, failed())
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert f"{tmp_path / 'b'}: give one folder, the one above them: all runs below it are read." in capsys.readouterr().err


INTERRUPTED = """
import sys
import fna.runner.cli, fna.runner.job
def run(*words, **more):
    raise KeyboardInterrupt
fna.runner.job.run = run
sys.argv = ["run.py", "-m", "landmarks=8,16", f"hydra.sweep.dir={sys.argv[1]}"]
fna.runner.cli.main()
"""


def test_an_interrupted_sweep_says_how_to_see_what_is_done(tmp_path: Path) -> None:
    done = call("-c", INTERRUPTED, tmp_path / "sweep")
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1].endswith(f"; python -m fna.report {tmp_path / 'sweep'} shows the jobs that are done")


def test_importing_is_light() -> None:
    heavy = ("torch", "wandb", "matplotlib", "hydra", "numpy")
    modules = "fna.report.__main__, fna.report.page, fna.report.table, fna.report.csv_logger, fna.report.wandb"
    done = call("-c", f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
