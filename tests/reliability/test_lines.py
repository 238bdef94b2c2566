"""Generated command lines: none ends in a traceback, none that is nonsense is taken, none that makes sense is refused.

``FNA_LINES=600 pytest tests/reliability`` asks more of them than the 200 of every run.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.reliability.lines import Line, faults, lines

COUNT = int(os.environ.get("FNA_LINES", "200"))
CHUNK = 50
PROGRAM = 12  # lines that the program itself is started with


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, COUNT, CHUNK))
def test_every_line_is_planned_or_refused_in_one_line(first: int) -> None:
    assert list(faults(lines(COUNT)[first : first + CHUNK])) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [line for line in lines(60, seed=5) if not line.right][:PROGRAM], ids=lambda line: " ".join(line.words)
)
def test_the_program_says_so_and_exits_1(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *line.words],
        cwd=tmp_path_factory.mktemp("line"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ")
    assert after.ru_utime - before.ru_utime < 10  # 5 seconds on a machine that does nothing else; cores may be shared


def test_a_fault_would_be_told() -> None:
    """The check itself: a right line called wrong, and a wrong one called right, are told."""
    assert "taken" in next(faults([Line(("seed=3",), right=False)]))
    assert "refused" in next(faults([Line(("seed=-3",), right=True)]))
