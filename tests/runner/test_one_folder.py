"""A folder belongs to one run or sweep at a time: while one is at work there, another is refused before it writes anything."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fna.errors import UserError
from fna.runner.files import LOCK, take
from fna.runner.rows import RowStore
from tests.conftest import ROOT

BUSY = """
import sys, time
from pathlib import Path
from fna.runner.files import take
take(Path(sys.argv[1]), "hydra.run.dir")
print("in", flush=True)
time.sleep(60)
"""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A folder in which another process is at work."""
    folder = tmp_path / "busy"
    command = [sys.executable, "-c", BUSY, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield folder
        process.kill()


@pytest.mark.parametrize(("words", "knob"), [((), "run"), (("-m", "seed=0,1"), "sweep")])
def test_a_second_run_in_the_folder_of_one_is_refused_and_leaves_it_as_it_is(busy: Path, words: tuple[str, ...], knob: str) -> None:
    command = [sys.executable, str(ROOT / "run.py"), *words, f"hydra.{knob}.dir=busy"]
    done = subprocess.run(command, cwd=busy.parent, capture_output=True, text=True)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said == f"error: busy: another run is at work in this folder; give another hydra.{knob}.dir."
    assert [file.name for file in busy.iterdir()] == [LOCK]


def test_the_folder_of_a_run_that_died_is_taken_over_and_ones_own_is_taken_again(busy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another run is at work in this folder"):
        take(busy, "hydra.run.dir")
    for _ in range(2):
        take(tmp_path / "other", "hydra.run.dir")


LEAVES = """
import multiprocessing, sys, time
from pathlib import Path
from fna.runner.files import take
take(Path(sys.argv[1]), "hydra.run.dir")
multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,), daemon=True).start()
print("in", flush=True)
time.sleep(60)
"""


def _taken_within(seconds: float, folder: Path) -> None:
    stop = time.monotonic() + seconds
    while True:
        try:
            return take(folder, "hydra.run.dir")
        except UserError:
            if time.monotonic() > stop:
                raise
            time.sleep(0.1)


def test_the_processes_that_a_killed_run_leaves_hold_its_folder_no_longer(tmp_path: Path) -> None:
    """As loading processes do for seconds, which no signal reaches when their run is killed."""
    with subprocess.Popen([sys.executable, "-c", LEAVES, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.kill()
        process.wait()
        process.stdout.close()
        _taken_within(10, tmp_path)  # the child lets go in its first moments, which come late on a busy machine


@pytest.mark.parametrize("place", ["file", "file/rows"])
def test_a_file_where_rows_belong_is_one_line_that_names_it(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=rf"{place}: cannot be written \((a file is there, no folder|Not a directory)\); mend that"):
        RowStore(tmp_path / place).check()
