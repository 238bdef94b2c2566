"""Printing never fails a finished job: a closed pipe, a full disk, a closed descriptor, an encoding without the letter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPEAKS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from fna.streams import never_fail
never_fail()
never_fail()
from rich.console import Console
from rich.progress import track
for stream in (sys.stdout, sys.stderr):
    for _ in range(300):
        print("Nyströmformer \\u2501 \\udcff" * 20, file=stream)
    stream.flush()
Console().print("[bold]ö[/bold]")
for _ in track(range(3), console=Console(stderr=True)):
    pass
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize(
    "where",
    ["", "| true", "| head -1", "2>&1 | true", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_that_happens_to_the_output_ends_the_program(tmp_path: Path, where: str, encoding: str) -> None:
    (tmp_path / "speaks.py").write_text(SPEAKS, encoding="utf-8")
    command = f"set -o pipefail; PYTHONIOENCODING={encoding} {sys.executable} speaks.py out {where}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == "done"
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("words", ["run.py --help", "-m fna.report --help", "run.py --cfg job"])
def test_help_into_a_pipe_that_is_closed(words: str, tmp_path: Path) -> None:
    for where in ("| true", ">&-", ">/dev/full"):
        command = f"set -o pipefail; cd {ROOT} && {sys.executable} {words} {where}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
