"""Fixtures: made-up run folders, with every number invented."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests find made_up_results

from made_up_results import result, write_run, write_sweep


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A whole run with pictures."""
    return write_run(tmp_path / "run", result(), pictures=True)


@pytest.fixture
def sweep_folder(tmp_path: Path) -> Path:
    """A sweep of nine whole runs."""
    return write_sweep(tmp_path / "sweep")
