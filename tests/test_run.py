"""The real command line from end to end, on a small random ViT and a small folder of images."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Cli

TINY = (
    "model=vit",
    "model.name=test_vit",
    "model.random=true",
    "model.num_classes=3",
    "dataset=imagefolder",
    "timing.rounds=2",
    "timing.batch_size=2",
)


def words(image_folder: Path, *more: str) -> list[str]:
    """A small run; what ``more`` says again, or cannot use, is left out of it."""
    said = {word.partition("=")[0] for word in more}
    unused = {"landmarks"} if {"attn=exact", "attn=toy_mean"} & set(more) else set()
    usual = [*TINY, f"dataset.root={image_folder}", "landmarks=8", "gallery=2"]
    return [*(word for word in usual if word.partition("=")[0] not in said | unused), *more]


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.rglob("result.json"))]


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single error line of a run that was refused."""
    assert done.returncode != 0, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_one_run(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*words(image_folder))
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert result["status"] == "ok"
    assert result["schema"] == 1
    assert result["samples"] == 12
    assert result["layers"] == [3, 4, 5]
    assert result["sampler"] == "fps"
    assert set(result["metrics"]) == {"top1", "ece"}  # of three classes the right one is always among five
    for value in result["metrics"].values():
        assert set(value) >= {"full", "variant", "delta", "ci"}
        assert value["delta"] == pytest.approx(value["variant"] - value["full"])
        assert value["ci"][0] <= value["delta"] <= value["ci"][1]
    assert 0 <= result["fidelity"]["agreement"] <= 100
    assert result["fidelity"]["output_error"] > 0
    cost = result["cost"]
    assert cost["speedup"]["ci"][0] <= cost["speedup"]["median"] <= cost["speedup"]["ci"][1]
    assert set(cost["images_per_second"]) == {"full", "exact", "variant"}
    assert cost["flops"]["full"] > 0
    assert cost["peak_memory_bytes"]["variant"] > 0
    assert any("random weights" in note for note in result["notes"])
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert (run / "report.html").stat().st_size > 5000
    gallery = json.loads((run / "gallery.json").read_text())
    assert len(gallery["landmarks"]) == 2
    assert all(len(set(shown["index"])) == 8 and 0 in shown["index"] for shown in gallery["landmarks"])


def test_exact_changes_nothing(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*words(image_folder, "attn=exact", "layers=all", "timing.enabled=false"))
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert result["fidelity"]["agreement"] == 100
    assert result["fidelity"]["output_error"] < 1e-5
    assert all(abs(value["delta"]) < 1e-3 for value in result["metrics"].values())


@pytest.mark.slow
def test_sweep_shares_the_full_row_and_reports_failures(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli("-m", *words(image_folder, "timing.enabled=false", "landmarks=4,8", "layers=last-half,40"))
    assert done.returncode == 1
    assert "2 of 4 jobs failed" in done.stderr
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    found = results(sweep)
    assert sorted(result["status"] for result in found) == ["failed", "failed", "ok", "ok"]
    assert all("layers=40" in result["error"] for result in found if result["status"] == "failed")
    assert len({result["rows"]["full"] for result in found if result["status"] == "ok"}) == 1
    assert len(list((tmp_path / "outputs" / "rows").glob("*.json"))) == 3
    assert (sweep / "results.csv").is_file()
    assert (sweep / "report.html").is_file()


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_table(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    untimed = words(image_folder, "timing.enabled=false", "batch_size=1")
    assert cli(*untimed, "rows_dir=left_alone").returncode == 0
    (alone,) = results(tmp_path / "outputs" / "runs")
    command = [sys.executable, str(ROOT / "run.py"), *untimed, "rows_dir=killed", "hydra.run.dir=outputs/killed"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not list((tmp_path / "killed").glob("*.parquet")) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert len(list((tmp_path / "killed").glob("*.json"))) < 2, "killed too late to prove anything"
    done = cli(*untimed, "rows_dir=killed", "hydra.run.dir=outputs/again")
    assert done.returncode == 0, done.stderr
    (again,) = results(tmp_path / "outputs" / "again")
    for key in ("hash", "rows", "metrics", "fidelity", "samples"):
        assert again[key] == alone[key]


def children_seconds() -> float:
    """CPU seconds of the processes that have been waited for: a busy machine does not stretch them."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


WRONG = {
    "attn=fnaa": ("attn=fnaa", "fna"),
    "landmark=3": ("landmark", "landmarks"),
    "landmarks=0": ("landmarks=0", "from 1 to 1000000"),
    "landmarks=abc": ("landmarks=abc", "count"),
    "layers=40": ("layers=40", "0-11"),
    "image_size=7": ("image_size=7", "multiples"),
    "dataset.root=nowhere": ("nowhere",),
    "dtype=int8": ("dtype=int8", "float32"),
    "limit=0": ("limit=0",),
    "batch_size=x": ("batch_size",),
    "model.nonsense=1": ("nonsense",),
    "attn.steps=-1": ("steps", "-1"),
}


@pytest.mark.parametrize("word", list(WRONG))
def test_wrong_input_is_one_line_within_seconds(cli: Cli, shared_data: Path, word: str) -> None:
    began = children_seconds()
    root = f"dataset.root={shared_data / 'tiny_imagenet' / 'val'}"
    weights = shared_data / "vit_tiny_tinyimagenet"
    model = (
        "model=vit_tiny_tinyimagenet",
        f"model.checkpoint={weights / 'model.safetensors'}",
        f"model.classes={weights / 'classes.tsv'}",
    )
    line = one_line(cli(*model, "dataset=tiny_imagenet", root, word))
    assert children_seconds() - began < 8  # of CPU: 5 seconds by the clock on a machine that does nothing else
    for part in WRONG[word]:
        assert part in line


def test_unwritable_folder(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "choose another folder" in one_line(cli(*words(image_folder, "rows_dir=file/rows")))
    assert "file" in one_line(cli(*words(image_folder, "hydra.run.dir=file/run")))


@pytest.mark.slow
def test_corrupt_image_is_named_and_counted(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(image_folder, root)
    (root / "b" / "1.jpg").write_bytes(b"\xff\xd8 not a picture")
    done = cli(*words(root, "timing.enabled=false"))
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert result["samples"] == 11
    assert len(result["skipped"]) == 1
    assert "1.jpg" in result["skipped"][0]
    assert "1.jpg" in one_line(cli(*words(root, "timing.enabled=false", "strict=true", "rows_dir=strict")))


@pytest.mark.slow
def test_more_landmarks_than_tokens_takes_all_with_a_warning(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*words(image_folder, "landmarks=5000", "attn.inverse=exact", "timing.enabled=false"))
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert any("5000" in warning for warning in result["warnings"])
    assert result["landmarks"] == result["tokens"], "headline, tables and plots tell what ran"
    assert result["fidelity"]["output_error"] < 1e-2


def test_help_lists_every_choice(cli: Cli) -> None:
    done = cli("--help")
    assert done.returncode == 0
    choices = ("attn=", "fna", "exact", "vit_tiny_tinyimagenet", "tiny_imagenet")
    for word in (*choices, "landmarks: 64", "  rounds: 15", "python run.py -m"):
        assert word in done.stdout


TOY = '''
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fna.ops.contract import Site, refuse


@dataclass(frozen=True)
class Mean:
    """Every query gets the mean value, as far as it likes the mean key."""

    weight: float = 1.0
    version: ClassVar[int] = 1

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        refuse(self, site, "keys", "key_bias", "causal", "dense")
        liking = ((q * k.mean(-2, keepdim=True)).sum(-1, keepdim=True) * site.scale).sigmoid()
        return (v.mean(-2, keepdim=True) * liking * self.weight).to(q.dtype)
'''


@pytest.fixture
def toy_method(tmp_path: Path) -> dict[str, str]:
    """A method added from outside: one Python file, one YAML; the environment that makes them known."""
    (tmp_path / "plug" / "attn").mkdir(parents=True)
    (tmp_path / "plug" / "toy_mean.py").write_text(TOY)
    option = "# mean of all values, as a toy\n_target_: toy_mean.Mean\nweight: 1.0\n"
    (tmp_path / "plug" / "attn" / "toy_mean.yaml").write_text(option)
    return {"FNA_CONF_DIR": str(tmp_path / "plug"), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'plug'}"}


@pytest.mark.slow
def test_a_new_method_is_one_file_and_one_yaml(cli: Cli, image_folder: Path, tmp_path: Path, toy_method: dict[str, str]) -> None:
    assert "toy_mean" in cli("--help", env=toy_method).stdout
    done = cli(*words(image_folder, "attn=toy_mean", "timing.enabled=false"), env=toy_method)
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert result["attn"] == "toy_mean"
    assert result["sampler"] == "none"  # it has none, whatever the root knob says
    assert result["fidelity"]["output_error"] > 0
    contract = str(ROOT / "tests" / "ops" / "test_contract.py")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", contract, "-k", "toy_mean", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, **toy_method},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert tested.returncode == 0, tested.stdout[-3000:]
    assert "toy_mean" in tested.stdout
