"""One's own data from the command line: pictures without labels, two labelled classes, and a model for its task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.test_run import one_line, results

EMBEDS = ("model=vit", "model.name=test_vit", "model.random=true", "model.num_classes=0", "landmarks=8", "gallery=2")
QUICK = ("timing.enabled=false", "bootstrap=100")


@pytest.fixture
def two_classes(image_folder: Path, tmp_path: Path) -> Path:
    """Two classes in two splits."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            shutil.copytree(image_folder / name, tmp_path / "two" / split / name)
    return tmp_path / "two"


def test_a_folder_of_pictures_gives_agreement_error_cost_and_a_page(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*EMBEDS, "dataset=images", f"dataset.root={image_folder}", "timing.rounds=2", "timing.batch_size=2", "bootstrap=100")
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert (result["task"], result["metrics"], result["samples"]) == ("fidelity", {}, 12)
    assert 0 <= result["fidelity"]["agreement"] <= 100
    assert result["cost"]["speedup"]["median"] > 0
    assert "agrees with full attention on" in done.stdout
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    page = (run / "report.html").read_text()
    assert "same nearest other image" in page
    assert "to full attention" in page


def test_a_sweep_over_pictures_is_one_table(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    words = (*EMBEDS[:-2], "gallery=0", "dataset=images", f"dataset.root={image_folder}", *QUICK)
    done = cli("-m", *words, "landmarks=4,8", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "sweep" / "results.csv").read_text().splitlines()
    assert len(table) == 3
    assert {"agreement", "output_error"} <= set(table[0].split(","))
    assert "2 comparisons" in done.stdout
    assert "failed" not in done.stdout


def test_two_labelled_classes_through_knn(cli: Cli, two_classes: Path, tmp_path: Path) -> None:
    """Every image asked about is among those learnt from, so that its own class is nearest."""
    words = (*EMBEDS, "dataset=imagefolder", f"dataset.root={two_classes}", "task=knn", "task.k=1", *QUICK)
    done = cli(*words, "dataset.split=val", "dataset.train=train")
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert result["metrics"]["top1"]["full"] == 100
    assert result["samples"] == 8
    refused = one_line(cli(*words))
    assert "dataset.train=SPLIT, or dataset.bank=4" in refused
    assert cli(*words, "dataset.split=val", "dataset.bank=2").returncode == 0


def test_a_model_that_cannot_do_the_default_task_does_what_it_can_and_says_so(cli: Cli, tmp_path: Path) -> None:
    words = (*EMBEDS, "dataset=shapes", "dataset.count=8", "limit=4", *QUICK)
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert result["task"] == "fidelity"
    said = "model=vit has no text tower, which task=retrieval needs: task=fidelity is taken instead"
    assert said in done.stderr
    assert any(said in note for note in result["notes"])


@pytest.mark.parametrize("word", ["task=retrieval", "task.prompt='a photo of {}'"])
def test_a_task_that_was_typed_is_refused_instead(word: str, cli: Cli) -> None:
    assert "task=fidelity on any images" in one_line(cli(*EMBEDS, "dataset=shapes", "dataset.count=8", "limit=4", word, *QUICK))


@pytest.mark.slow
def test_photographs_through_dinov2_from_a_file(cli: Cli, shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "dinov2_s_saliency" / "model.safetensors"
    if not file.is_file():
        pytest.skip("the DINOv2-S file is not on this machine")
    model = ("model=dinov2", "model.name=vit_small_patch14_dinov2", f"model.checkpoint={file}", "image_size=224", "landmarks=32")
    done = cli(*model, "dataset=images", f"dataset.root={shared_data / 'imagenet_sample'}", "limit=16", *QUICK)
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert 50 <= result["fidelity"]["agreement"] <= 100
    gallery: dict[str, Any] = json.loads(next((tmp_path / "outputs" / "runs").rglob("gallery.json")).read_text())
    assert len(gallery["landmarks"]) == 4
