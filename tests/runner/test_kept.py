"""A sweep that goes on in its folder keeps what it measured there, and nothing else does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from fna.runner.kept import SAME, kept_costs
from tests.report.made_up_results import result, write_run

MACHINE: dict[str, Any] = dict.fromkeys(SAME) | {"commit": "abc1234", "cpu": "a processor", "threads": 2}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The folder of a job of a sweep that was timed."""
    (tmp_path / "multirun.yaml").write_text("hydra: {}")
    cost = {**result()["cost"], "rounds": 7, "batch_size": 1, "measurement": {"quiet": True}}
    return write_run(tmp_path / "0", result(hash="row", cost=cost, environment=MACHINE))


def test_the_same_row_of_the_same_code_on_the_same_machine_is_not_timed_again(sweep: Path) -> None:
    found = kept_costs(sweep, ["row"], 7, 1, MACHINE)
    assert found is not None
    assert found[0]["speedup"]["median"] == 1.19


@pytest.mark.parametrize(
    ("rows", "rounds", "batch", "machine"),
    [
        (["another"], 7, 1, {}),
        (["row", "another"], 7, 1, {}),
        (["row"], 9, 1, {}),
        (["row"], 7, 2, {}),
        (["row"], 7, 1, {"threads": 1}),
        (["row"], 7, 1, {"commit": "def5678"}),
        (["row"], 7, 1, {"commit": "abc1234-dirty"}),
    ],
)
def test_what_differs_is_timed_anew(sweep: Path, rows: list[str], rounds: int, batch: int, machine: dict[str, Any]) -> None:
    assert kept_costs(sweep, rows, rounds, batch, MACHINE | machine) is None


def test_what_was_no_measurement_is_timed_anew_and_so_is_a_run_of_no_sweep(sweep: Path, tmp_path: Path) -> None:
    changed = copy.deepcopy(result(hash="row", environment=MACHINE))
    changed["cost"] |= {"rounds": 7, "batch_size": 1, "measurement": {"quiet": False, "reasons": ["busy"]}}
    write_run(tmp_path / "1", changed)
    assert kept_costs(tmp_path / "1", ["row"], 7, 1, MACHINE) is None
    assert kept_costs(tmp_path / "2", ["row"], 7, 1, MACHINE) is None
    (tmp_path / "multirun.yaml").unlink()
    assert kept_costs(sweep, ["row"], 7, 1, MACHINE) is None
