"""Counts and blocks chosen by measurement, on a small ViT with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fna.models.base import Model
from fna.models.timm import TimmModel
from fna.ops.nystrom import FastNystrom
from fna.runner import auto
from fna.runner.quiet import Load
from fna.surgery.swap import swap_tower
from tests.conftest import Cli


@pytest.fixture(scope="module")
def model() -> Model:
    return TimmModel("vit_tiny_patch16_224", random=True).build(image_size=64, device="cpu", dtype="float32", seed=0)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_smallest_count_under_the_tolerance(model: Model, images: Tensor) -> None:
    choice = auto.choose(model, FastNystrom(), images, layers="6-7", landmarks="auto", tolerance=0.5)
    assert set(choice.errors) == {6, 7}
    for block, found in choice.errors.items():
        assert list(found) == [8]  # 17 tokens: no more than half of them
        assert (block in choice.landmarks) == (found[8] <= 0.5)
    assert not choice.speedups
    assert len(choice.why) == 2


def test_tolerance_decides(model: Model, images: Tensor) -> None:
    strict = auto.choose(model, FastNystrom(), images, layers="all", landmarks="auto", tolerance=1e-9)
    assert strict.landmarks == {}
    assert "no count comes under" in strict.why[0]
    loose = auto.choose(model, FastNystrom(), images, layers="all", landmarks="auto", tolerance=10.0)
    assert loose.landmarks == dict.fromkeys(range(12), 8)


@pytest.mark.parametrize(("speed", "blocks"), [(2.0, set(range(6, 12))), (0.5, set())])
def test_layers_follow_the_crossover(
    model: Model, images: Tensor, monkeypatch: pytest.MonkeyPatch, speed: float, blocks: set[int]
) -> None:
    monkeypatch.setattr(auto, "_speedups", lambda look, count: dict.fromkeys(look.ops, speed))
    choice = auto.choose(model, FastNystrom(), images, layers="auto", landmarks=4)
    assert set(choice.landmarks) == blocks
    assert all(("times as fast" in line) == bool(blocks) for line in choice.why)


def test_speed_is_measured(model: Model, images: Tensor) -> None:
    choice = auto.choose(model, FastNystrom(), images, layers="auto", landmarks=8)
    assert choice.speedups[8] > 0


def test_a_choice_timed_while_others_work_remembers_that(
    model: Model, images: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Load, "crowded", property(lambda load: True))
    monkeypatch.setattr(Load, "said", lambda load: "others worked")
    for _ in range(2):
        assert auto.choose(model, FastNystrom(), images, layers="auto", landmarks=8, cache=tmp_path).busy == "others worked"
    assert auto.choose(model, FastNystrom(), images, layers="all", landmarks="auto", cache=tmp_path).busy == ""


def test_ops_carry_their_counts_and_run(model: Model, images: Tensor) -> None:
    choice = auto.Choice({3: 4, 9: 8}, [])
    ops = choice.ops(FastNystrom())
    assert {layer: op.landmarks for layer, op in ops.items()} == {3: 4, 9: 8}  # type: ignore[attr-defined]
    assert model.classify is not None
    with swap_tower(model.tower, ops), torch.inference_mode():
        assert model.classify(images).isfinite().all()


def test_a_choice_is_found_again_and_leaves_the_model_alone(model: Model, images: Tensor, tmp_path: Path) -> None:
    assert model.classify is not None
    before = model.classify(images)
    first = auto.choose(model, FastNystrom(), images, layers="auto", landmarks="auto", tolerance=0.9, cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert auto.choose(model, FastNystrom(), images, layers="auto", landmarks="auto", tolerance=0.9, cache=tmp_path) == first
    auto.choose(model, FastNystrom(), images, layers="auto", landmarks="auto", tolerance=0.8, cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert torch.equal(model.classify(images), before)


def command(image_folder: Path, *more: str) -> list[str]:
    tiny = ["model=vit", "model.name=test_vit", "model.random=true", "model.num_classes=3", "dataset=imagefolder", "gallery=1"]
    return [*tiny, f"dataset.root={image_folder}", "timing.rounds=2", "timing.batch_size=2", *more]


def test_command_line_states_what_was_chosen(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*command(image_folder, "landmarks=auto", "layers=0-3", "tolerance=5"))
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    result = json.loads(file.read_text())
    assert result["layers"] == [0, 1, 2, 3]
    assert result["auto"]["landmarks"] == {"0": 8, "1": 8, "2": 8, "3": 8}
    assert any(line.startswith("block 0: 8 landmarks (error") for line in result["notes"])


def test_command_line_where_nothing_is_worth_it(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*command(image_folder, "landmarks=auto", "layers=auto", "tolerance=1e-9"))
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    result = json.loads(file.read_text())
    assert result["auto"]["landmarks"] == {}
    assert result["fidelity"]["agreement"] == 100


def test_command_line_refuses_what_auto_cannot_count(cli: Cli, image_folder: Path) -> None:
    done = cli(*command(image_folder, "landmarks=auto", "attn=exact"))
    assert done.returncode != 0
    assert "counts no landmarks" in done.stderr
