"""Loggers: a CSV line, and W&B without network or account."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fna.configs import choices, load_option, summary
from fna.errors import UserError
from fna.report.csv_logger import CsvLogger
from fna.report.wandb import WandbLogger
from tests.report.made_up_results import result, write_study

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


@pytest.mark.parametrize("held", [b"\xff\xfe no text", b"a,b\n" + b"x" * 200_000 + b",1\n", None])
def test_a_log_that_is_no_csv_is_told_in_one_line_and_not_written_over(tmp_path: Path, held: bytes | None) -> None:
    path = tmp_path / "log.csv"
    path.mkdir() if held is None else path.write_bytes(held)
    with pytest.raises(UserError, match=r"log\.csv: no CSV that could be added to .*move it away, or give logger\.file=NAME\.csv"):
        CsvLogger().log(result(), {}, tmp_path)
    assert path.is_dir() if held is None else path.read_bytes() == held


def test_every_logger_has_its_sentence_and_a_target_that_is_there() -> None:
    options = choices("logger")
    assert {"csv", "none", "wandb"} <= set(options)
    assert all(summary(file) for file in options.values())
    targets = {name: load_option("logger", name).get("_target_") for name in options}
    assert targets["csv"] == f"{CsvLogger.__module__}.CsvLogger"
    assert targets["wandb"] == f"{WandbLogger.__module__}.WandbLogger"


def offline(folder: Path, tmp_path: Path) -> list[Path]:
    """What two jobs of one process leave with W&B, which reaches no network and knows no account."""
    pytest.importorskip("wandb")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    home = {"HOME": str(tmp_path / "home"), "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    call = [sys.executable, "-c", WANDB, str(folder)]
    done = subprocess.run(call, cwd=ROOT, env=kept | home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert done.stdout == ""
    assert sorted(done.stderr.splitlines()) == sorted(f"wandb: kept offline; `wandb sync {run}` sends it" for run in runs)
    assert len(runs) == 2
    assert all(list(run.glob("*.wandb")) for run in runs)
    return runs


def test_wandb_runs_offline_without_account(run_folder: Path, tmp_path: Path) -> None:
    run, _ = offline(run_folder, tmp_path)
    (boxes,) = (json.loads(path.read_text())["box_data"] for path in run.rglob("*.boxes2D.json"))
    assert [box["position"]["minX"] for box in boxes] == [0, 0.5, 0.75]
    assert list(run.rglob("*.png"))


def test_wandb_gets_the_tokens_marked_and_every_figure_of_the_study(tmp_path: Path) -> None:
    run, _ = offline(write_study(tmp_path / "run"), tmp_path)
    kinds = [json.loads(path.read_text())["box_data"] for path in run.rglob("*.boxes2D.json")]
    assert sorted(box["class_id"] for boxes in kinds for box in boxes) == [0, 0, 1]
    (page,) = (path.read_text() for path in run.rglob("*.html"))
    figures = ("Norm after each block", "Suppression in block", "Attention cut to low rank", "Taking sinks away")
    for figure in ("2.5 massive and 0.0 artifact tokens", *figures):
        assert figure in page, figure
    assert "data:image/jpeg" in page


def test_wandb_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="offline"):
        WandbLogger(mode="offlin")  # type: ignore[arg-type]


def test_wandb_online_without_an_account_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def no_key(**options: object) -> None:
        raise wandb.errors.UsageError("No API key configured.\nMore of it")

    monkeypatch.setattr(wandb, "login", no_key)
    with pytest.raises(UserError, match=r"mode=online: No API key configured; log in with .* logger\.mode=offline"):
        WandbLogger(mode="online").check()
    WandbLogger().check()


def test_wandb_groups_by_the_sweep(tmp_path: Path) -> None:
    from fna.report.wandb import _sweep

    (tmp_path / "sweep/0").mkdir(parents=True)
    assert _sweep(tmp_path / "sweep/0") is None
    (tmp_path / "sweep/multirun.yaml").write_text("")
    assert _sweep(tmp_path / "sweep/0") == "sweep"
