"""The figures of the shared data's README, reproduced: with the authors' start of the sampler, and with ours.

There the kept CLS token does not seed the distances and sampling starts at the first patch; ours seeds by every kept token. That is
the whole difference, as the runs with the authors' sampler show.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from fna.configs import instantiate, load_option
from fna.ops.contract import Site
from fna.ops.landmarks import FarthestPoint, Landmarks
from fna.ops.nystrom import FastNystrom
from fna.runner.speed import yardstick
from fna.surgery.swap import swap_tower
from fna.tasks.base import Run
from fna.tasks.classification import Classification

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class AuthorsSampler:
    """Farthest-point sampling on head-mean queries that kept tokens do not seed."""

    gives: ClassVar[type] = Landmarks

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor, drop: None) -> Landmarks:
        return Landmarks(yardstick.sample(q.mean(1), count, keep.expand(len(q), -1)), None)


@pytest.fixture(scope="module")
def top1(shared_data: Path) -> Any:
    model_node = load_option("model", "vit_tiny_tinyimagenet")
    model_node.checkpoint = str(shared_data / "vit_tiny_tinyimagenet" / "model.safetensors")
    model_node.classes = str(shared_data / "vit_tiny_tinyimagenet" / "classes.tsv")
    data_node = load_option("dataset", "tiny_imagenet")
    data_node.root = str(shared_data / "tiny_imagenet")
    model = instantiate(model_node).build(image_size=None, device="cpu", dtype="float32", seed=0)
    dataset = instantiate(data_node).load(None)
    task = Classification()

    def measure(op: Any = None, layers: range = range(12)) -> float:
        with swap_tower(model.tower, dict.fromkeys(layers, op)) if op else nullcontext():
            outcome = task.evaluate(model, dataset, Run(batch_size=50))
        return 100 * float(outcome.counts["top1"].mean())

    return measure


def test_full(top1: Any) -> None:
    assert top1() == pytest.approx(69.80, abs=0.2)


@pytest.mark.parametrize(("landmarks", "layers", "published"), [(16, range(6, 12), 67.70), (16, range(12), 17.90)])
def test_authors_sampler(top1: Any, landmarks: int, layers: range, published: float) -> None:
    pytest.importorskip("torch_quickfps", reason="the authors' sampler is torch-quickfps")
    assert top1(FastNystrom(AuthorsSampler(), landmarks), layers) == pytest.approx(published, abs=0.3)


def test_our_sampler_is_no_worse_in_the_last_half(top1: Any) -> None:
    assert top1(FastNystrom(FarthestPoint(), 16), range(6, 12)) > 67.70 - 1.5
