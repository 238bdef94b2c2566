"""Fixtures: made-up run folders, with every number invented."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.made_up_results import result, write_run, write_sweep


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A whole run with pictures."""
    return write_run(tmp_path / "run", result(), pictures=True)


@pytest.fixture
def sweep_folder(tmp_path: Path) -> Path:
    """A sweep of nine whole runs."""
    return write_sweep(tmp_path / "sweep")
