"""Which of several methods each block gets, on a small ViT with random weights: within the bound, faster, on unseen images."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from fna.data.imagefolder import ImageFolder
from fna.data.loading import transformed
from fna.errors import UserError
from fna.metrics.compare import relative_error
from fna.models.base import Model
from fna.models.timm import TimmModel
from fna.ops.local import LocalClusters
from fna.ops.plus import ClusterNystrom
from fna.runner import assign as room
from fna.runner.assign import Assigned, assign
from fna.runner.settled import _unseen
from fna.surgery.plan import parse_plan
from fna.surgery.swap import swap_tower
from fna.surgery.variant import Variant
from fna.tasks.fidelity import Fidelity
from tests.conftest import Cli

METHODS = {"fna_local": LocalClusters(landmarks=4), "fna_plus": ClusterNystrom(landmarks=4)}


@pytest.fixture(scope="module")
def model() -> Model:
    return TimmModel("test_vit", random=True).build(image_size=64, device="cpu", dtype="float32", seed=0)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What each attention is found to take; a test may change it."""
    found = {"exact": 3.0, "fna_local": 2.0, "fna_plus": 1.0}
    monkeypatch.setattr(room, "in_turns", lambda calls, rounds, device, warm_up: {name: np.full(3, found[name]) for name in calls})
    return found


def choose(model: Model, images: Tensor, tolerance: float, cache: Path | None = None) -> Assigned:
    return assign(model, Fidelity(), METHODS, images, tolerance=tolerance, cache=cache)


def off(model: Model, images: Tensor, plan: dict[int, str]) -> float:
    assert model.classify is not None
    with torch.inference_mode():
        full = model.classify(images).numpy()
        with swap_tower(model.tower, {block: METHODS[name] for block, name in plan.items()}):
            return float(relative_error(full, model.classify(images).numpy()).mean())


def test_the_whole_plan_is_within_the_bound_at_the_models_output(model: Model, images: Tensor, seconds: dict[str, float]) -> None:
    alone = choose(model, images, 10.0).errors
    bound = sorted(error for found in alone.values() for error in found.values())[-1]
    choice = choose(model, images, bound)
    assert choice.methods
    assert choice.error == off(model, images, choice.methods) <= bound
    assert all(choice.errors[block][name] == off(model, images, {block: name}) for block, name in choice.methods.items())


def test_the_method_that_saves_more_takes_the_block_where_both_are_good_enough(
    model: Model, images: Tensor, seconds: dict[str, float]
) -> None:
    assert set(choose(model, images, 10.0).methods.values()) == {"fna_plus"}
    seconds |= {"fna_local": 0.5}
    assert choose(model, images, 10.0).methods == dict.fromkeys(range(6), "fna_local")


def test_a_block_where_nothing_is_faster_or_good_enough_keeps_full_attention(
    model: Model, images: Tensor, seconds: dict[str, float]
) -> None:
    strict = choose(model, images, 1e-9)
    assert strict.methods == {}
    assert strict.plan() == ""
    assert strict.blocks(6) == (5,)
    assert "takes the output past 1e-09" in strict.why[0]
    seconds |= {"fna_local": 3.0, "fna_plus": 4.0}
    slow = choose(model, images, 10.0)
    assert slow.methods == {}
    assert "since nothing is faster (best 1.00 times its speed)" in slow.why[0]


def test_blocks_that_share_a_draw_share_its_time() -> None:
    pace = room._Pace({"fna_plus": METHODS["fna_plus"]})
    pace.seconds = {block: {"exact": 3.0, "fna_plus": took} for block, took in enumerate((6.0, 1.0, 2.0))}
    pace.drew = {"fna_plus": [0, 2]}
    assert [found["fna_plus"] for found in pace.speedups().values()] == [6 / 7, 6 / 7, 1.5]


def test_speeds_are_measured_with_what_each_method_drew_before(model: Model, images: Tensor) -> None:
    choice = choose(model, images, 1e-9)
    assert set(choice.speedups) == set(range(6))
    assert all(set(found) == set(METHODS) and min(found.values()) > 0 for found in choice.speedups.values())


def test_a_choice_is_found_again_and_leaves_the_model_alone(
    model: Model, images: Tensor, seconds: dict[str, float], tmp_path: Path
) -> None:
    assert model.classify is not None
    before = model.classify(images)
    first = choose(model, images, 0.5, tmp_path)
    seconds |= {"fna_local": 9.0, "fna_plus": 9.0}
    assert choose(model, images, 0.5, tmp_path) == first
    assert choose(model, images, 0.4, tmp_path).methods == {}
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert torch.equal(model.classify(images), before)


def test_a_plan_reads_as_it_would_be_typed() -> None:
    assert Assigned({1: "a", 2: "a", 3: "b", 5: "b"}, 0.1, [], {}, {}).plan() == "1-2: a, 3: b, 5: b"


def test_it_is_measured_on_images_that_are_not_tested(model: Model, image_folder: Path) -> None:
    source = ImageFolder(root=str(image_folder))
    node = {"_target_": "fna.data.imagefolder.ImageFolder", "root": str(image_folder)}
    cfg = OmegaConf.create({"dataset": node, "timing": {"batch_size": 4}, "layers": {"auto": ["fna_plus"]}})
    part = SimpleNamespace(model=model, dataset=source.load(8))
    found = _unseen(SimpleNamespace(cfg=cfg), part)
    tested = [transformed(example, model.transform) for example in part.dataset.examples]
    assert len(found) == 4
    assert not any(torch.equal(one, other) for one in found for other in tested)
    with pytest.raises(UserError, match=r"layers=\{auto:\[fna_plus\]\}: .* all 12 are; leave some with limit=N"):
        _unseen(SimpleNamespace(cfg=cfg), SimpleNamespace(model=model, dataset=source.load(None)))


def command(image_folder: Path, *more: str) -> list[str]:
    tiny = ["model=vit", "model.name=test_vit", "model.random=true", "model.num_classes=3", "dataset=imagefolder", "gallery=1"]
    return [*tiny, f"dataset.root={image_folder}", "limit=8", "timing.enabled=false", "timing.batch_size=2", *more]


def test_the_plan_typed_is_the_same_variant(model: Model, images: Tensor, seconds: dict[str, float]) -> None:
    choice = choose(model, images, 10.0)
    typed = dict(part.split(": ") for part in choice.plan().split(", "))
    ops = {block: METHODS[name] for block, name in parse_plan(typed, 6).items()}
    assert Variant("typed", ops).decides() == Variant("measured", choice.ops(METHODS)).decides()


def test_command_line_tells_what_was_measured(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    words = ["attn=fna_plus", "landmarks=4", "layers={auto: [fna_plus, fna_local]}", "tolerance=5", "image_size=64"]
    done = cli(*command(image_folder, *words))
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    result = json.loads(file.read_text())
    assert set(result["auto"]["speedups"]) == set(map(str, range(6)))
    assert result["auto"]["error"] <= result["auto"]["tolerance"] == 5
    assert result["layers"] == (sorted(map(int, result["auto"]["methods"])) or [5])
    assert bool(result["plan"]) == bool(result["auto"]["methods"])
    assert "off together, 5 allowed" in " ".join(done.stdout.split())
    assert "full attention against fna_plus in blocks {auto:[fna_plus,fna_local]}" in done.stderr


def test_command_line_refuses_what_a_choice_of_methods_cannot_be_measured_beside(cli: Cli, image_folder: Path) -> None:
    done = cli(*command(image_folder, "attn=fna_plus", "layers={auto: [fna_plus]}", "reduce=tome"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: layers={auto:[fna_plus]}: methods are measured without reduce=tome; leave that out")
