"""Many contenders in one run: the same rows as alone, timed in turns, failures in lines of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fna.errors import UserError
from fna.runner import versus
from tests.conftest import ROOT, Cli
from tests.test_run import one_line, results, words

THREE = 'versus=["attn=fna landmarks=4","attn=nystromformer","sampler=random"]'
QUICK = ("timing.enabled=false", "gallery=0", "bootstrap=100")


def the_result(folder: Path) -> dict[str, Any]:
    return max(results(folder / "outputs" / "runs"), key=lambda result: len(result.get("contenders", ())))


def test_contenders_share_a_run_and_keep_their_rows(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*words(image_folder, THREE))
    assert done.returncode == 0, done.stderr
    result = the_result(tmp_path)
    labels = ["fna landmarks=8 sampler=fps", "fna landmarks=4", "nystromformer", "fna sampler=random"]
    contenders = {one["label"]: one for one in result["contenders"]}
    assert list(contenders) == labels
    assert result["hash"] == contenders[labels[0]]["hash"]
    assert result["metrics"] == contenders[labels[0]]["metrics"]
    for one in contenders.values():
        assert one["metrics"]["top1"]["full"] == result["metrics"]["top1"]["full"]
        assert 0 <= one["metrics"]["top1"]["mcnemar_p"] <= 1
        assert one["cost"]["speedup"]["ci"][0] <= one["cost"]["speedup"]["median"]
        assert one["cost"]["images_per_second"]["full"] == result["cost"]["images_per_second"]["full"]
    assert [(pair["a"], pair["b"]) for pair in result["pairs"]] == [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    (gallery,) = (tmp_path / "outputs" / "runs").rglob("gallery.json")
    assert [one["label"] for one in json.loads(gallery.read_text())["contenders"]] == labels
    page = next((tmp_path / "outputs" / "runs").rglob("report.html")).read_text()
    assert all(label in page for label in labels)
    # Each contender's row is found again by the same config run alone, and the other way round.
    for alone, label in ((("landmarks=4",), labels[1]), (("attn=nystromformer",), labels[2]), (("sampler=random",), labels[3])):
        again = cli(*words(image_folder, *alone, *QUICK))
        assert f"row {contenders[label]['hash']} is there" in again.stderr


def test_a_method_without_landmarks_is_told_without_them(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    """The root's count is that of the methods whose YAML follows it: of hyper the blocks, of low_rank the rank."""
    done = cli(*words(image_folder, 'versus=["attn=window","attn=exact","attn=hyper"]', *QUICK))
    assert done.returncode == 0, done.stderr
    counts = {one["attn"]: one["landmarks"] for one in the_result(tmp_path)["contenders"]}
    assert counts == {"fna": 8, "window": None, "exact": None, "hyper": 8}
    assert "Window with" not in done.stdout


def test_a_contender_that_fails_leaves_the_others(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    """low_rank by category needs tokens that were found, and refuses; full's row and the others' are there."""
    done = cli(*words(image_folder, 'versus=["attn=low_rank attn.partition=true","attn=exact"]', *QUICK))
    assert "1 of 3 contenders failed (low_rank attn.partition=true: " in one_line(done)
    result = the_result(tmp_path)
    assert [one["status"] for one in result["contenders"]] == ["ok", "failed", "ok"]
    assert "asks for massive tokens" in result["contenders"][1]["error"]
    assert result["status"] == "ok"
    assert "low_rank attn.partition=true" in next((tmp_path / "outputs" / "runs").rglob("report.html")).read_text()


def test_a_first_contender_that_fails_leaves_the_others(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*words(image_folder, "attn=low_rank", "attn.partition=true", 'versus=["attn=exact"]', *QUICK))
    assert done.returncode == 1
    assert "1 of 2 contenders failed" in done.stderr
    result = the_result(tmp_path)
    assert (result["status"], [one["status"] for one in result["contenders"]]) == ("failed", ["failed", "ok"])


@pytest.mark.parametrize(
    ("strings", "said"),
    [
        ('["model=vit"]', "versus: model=vit: contenders share model, data and everything else"),
        ('["attn=fna","dataset.root=x"]', "versus: dataset.root=x: contenders share"),
        ('["attn=nope"]', "attn=nope: no such attn"),
        ('["attn=fna attn.stps=3"]', "attn has no key stps"),
        ('["sede=3"]', "versus: sede=3"),
        ('["lanmarks=3"]', "versus: lanmarks=3: did you mean landmarks?"),
        ('["landmarks"]', "versus: landmarks"),
        ('[""]', "versus"),
        ('["landmarks=-3"]', "landmarks=-3"),
        ('["sampler=random","sampler=random"]', "fna sampler=random stands there twice"),
        ("attn=fna", "versus"),
        ("3", "versus"),
    ],
)
def test_wrong_strings_are_one_line_before_torch(cli: Cli, image_folder: Path, tmp_path: Path, strings: str, said: str) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    assert said in one_line(cli(*words(image_folder, f"versus={strings}"), env={"PYTHONPATH": path}))


def test_a_string_is_split_as_a_shell_would() -> None:
    assert versus._split("attn=fna  landmarks=16") == ["attn=fna", "landmarks=16"]
    with pytest.raises(UserError, match="No closing quotation"):
        versus._split("attn='fna")


@pytest.mark.slow
def test_nothing_is_computed_twice_after_a_kill(image_folder: Path, tmp_path: Path) -> None:
    """kill -9 while a contender runs: rows that were finished are found by the same command."""
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        *words(image_folder, THREE, "batch_size=1", *QUICK),
        f"rows_dir={tmp_path}/rows",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    rows = tmp_path / "rows"
    seen: set[str] = set()
    for least in (1, 3):
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(rows.glob("[!.]*.json"))) < least:
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        finished = {file.stem for file in rows.glob("*.json") if not file.name.startswith(".")}
        assert finished >= seen
        seen = finished
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is there, not computed again") == len(seen) >= 3
