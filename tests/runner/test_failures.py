"""What the limits of the machine make fail is one line: memory, in the words of torch on a CPU too, and room on the disk."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fna.errors import UserError
from fna.runner.failures import is_memory, mendable
from fna.tasks.classification import Classification
from tests.conftest import ROOT, Cli
from tests.runner.test_stored_rows import Job, images, run
from tests.test_records import small_disk

__all__ = ["images", "run"]
CPU = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
WORDS = ("model=clip", "image_size=64", "dataset.count=8", "limit=8", "timing.enabled=false", "gallery=0", "bootstrap=100")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(CPU),
        RuntimeError("[enforce fail at CPUAllocator.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:20]}",
)
def test_no_more_memory_is_the_line_about_batch_size_and_no_failed_row(
    run: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def refuse(*args: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "evaluate", refuse)
        with pytest.raises(UserError, match=r"^out of memory \(.*\); give a smaller batch_size"):
            run()
    assert not list((tmp_path / "rows").glob("*.json"))
    assert not (tmp_path / "run" / "traceback.txt").exists()
    assert run()["status"] == "ok"


def test_no_more_memory_in_a_loading_process_is_told_by_its_reason_and_not_by_torchs_trace() -> None:
    caught = RuntimeError(
        f"Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n  File x\nRuntimeError: {CPU}\n"
    )
    assert str(mendable(caught)).startswith(f"out of memory (RuntimeError: {CPU}")


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), OSError(errno.EIO, "I/O")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_memory(error)
    assert mendable(error) is error


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EROFS])
def test_a_path_that_no_file_can_have_is_one_line(number: int) -> None:
    said = str(mendable(OSError(number, "Of no use", "some/place")))
    assert said == "some/place: Of no use; name another place."


LIMITED = """
import resource, sys
import open_clip, torch, transformers  # what they map counts too
from fna.runner.cli import main
here = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (here + 1000 * 2**20,) * 2)
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_batch_too_large_for_the_memory_there_is(tmp_path: Path) -> None:
    words = (WORDS[0], *WORDS[2:], "image_size=1024", "batch_size=16", "hydra.run.dir=run")
    command = [sys.executable, "-c", LIMITED, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FNA_CPU_KERNELS": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: out of memory (")
    assert "give a smaller batch_size" in line
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"
    assert not list((tmp_path / "outputs" / "rows").glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "named"), [("8k", "disk/run"), ("20k", "disk/run"), ("36k", "report.html")])
def test_a_full_disk_is_one_line_with_the_path_and_the_rows_stay(cli: Cli, tmp_path: Path, size: str, named: str) -> None:
    words = (*WORDS, "attn=exact", "layers=0")
    assert cli(*words).returncode == 0
    with small_disk(tmp_path / "disk", size) as disk:
        done = cli(*words, f"hydra.run.dir={disk / 'run'}")
    assert done.returncode == 1, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert named in line
    assert "No space left on device" in line
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "outputs" / "rows").glob("*.json"))) == 2


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


@pytest.mark.slow
def test_a_file_larger_than_is_allowed_is_one_line_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *WORDS, "attn=exact", "layers=0"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, preexec_fn=limited,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "File too large" in line


@pytest.mark.slow
def test_two_processes_that_want_the_same_rows_compute_each_once(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), *WORDS, "attn=exact", "batch_size=1", "hydra.run.dir=run${oc.env:NUMBER}"]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBER": number}, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True,
        )
        for number in "01"
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    # whether one waits for the other, or comes when that is done, is the machine's affair: each row is made once
    assert sum(text.count("is there, not computed again") for text in said) == 2
    first, second = (json.loads((tmp_path / f"run{number}" / "result.json").read_text()) for number in "01")
    assert first["metrics"] == second["metrics"]
