"""Loggers: a CSV line, and W&B without network or account."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fna.configs import choices, load_option, summary
from fna.report.csv_logger import CsvLogger
from fna.report.wandb import WandbLogger
from tests.report.made_up_results import result

ROOT = Path(__file__).parents[2]
WANDB = """
import json, sys
from pathlib import Path
from fna.report.wandb import WandbLogger
folder = Path(sys.argv[1])
for _ in range(2):  # two jobs in one process: finish() lets the second begin
    WandbLogger().log(json.loads((folder / "result.json").read_text()), {"attn": {"steps": 6}, "landmarks": 64}, folder)
"""


def test_csv_appends_and_takes_new_columns(tmp_path: Path) -> None:
    CsvLogger().log(result(), {}, tmp_path)
    CsvLogger().log(result(metrics={"miou": {"full": 40.0, "variant": 39.0, "delta": -1.0, "ci": [-2, 0]}}), {}, tmp_path)
    with (tmp_path / "log.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["top1_variant"], first["miou_full"]) == ("71.05", "")
    assert (second["top1_variant"], second["miou_full"]) == ("", "40.0")


def test_every_logger_has_its_sentence_and_a_target_that_is_there() -> None:
    options = choices("logger")
    assert {"csv", "none", "wandb"} <= set(options)
    assert all(summary(file) for file in options.values())
    targets = {name: load_option("logger", name).get("_target_") for name in options}
    assert targets["csv"] == f"{CsvLogger.__module__}.CsvLogger"
    assert targets["wandb"] == f"{WandbLogger.__module__}.WandbLogger"


def test_wandb_runs_offline_without_account(run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    home = {"HOME": str(tmp_path / "home"), "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    call = [sys.executable, "-c", WANDB, str(run_folder)]
    done = subprocess.run(call, cwd=ROOT, env=kept | home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    runs = list((run_folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert all(list(run.glob("*.wandb")) for run in runs)
    assert list(runs[0].rglob("*.png"))


def test_wandb_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="offline"):
        WandbLogger(mode="offlin")  # type: ignore[arg-type]


def test_wandb_groups_by_the_sweep(tmp_path: Path) -> None:
    from fna.report.wandb import _sweep

    (tmp_path / "sweep/0").mkdir(parents=True)
    assert _sweep(tmp_path / "sweep/0") is None
    (tmp_path / "sweep/multirun.yaml").write_text("")
    assert _sweep(tmp_path / "sweep/0") == "sweep"
