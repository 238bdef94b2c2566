"""Comparisons of many contenders: what is no number is the failure of one of them, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fna
from fna.errors import UserError
from fna.metrics.compare import Paired
from fna.runner.compared import Versus
from fna.runner.outcomes import Scored
from fna.surgery.variant import FULL
from fna.tasks.base import Outcome
from tests.surgery.zoo import zoo


def images() -> Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def number_where_right(full: Tensor) -> Any:
    """A metric that is no number where outputs are far from those of ``full``."""

    def close(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where((outputs - full[targets]).norm(dim=-1) < 1e-3, 1.0, torch.nan)

    return close


def test_a_figure_that_is_no_number_fails_its_contender_and_no_other() -> None:
    model = zoo("open_clip")
    with torch.inference_mode():
        full = model.encode_image(images())
    batches = [(images(), torch.arange(6))]
    quick: dict[str, Any] = {"rounds": 0, "bootstrap": 100, "metric": number_where_right(full)}
    versus = ["exact", {"attn": "nystromformer", "landmarks": 2}]
    found = fna.compare(model, batches, "fna", landmarks=2, layers="all", versus=versus, **quick).result
    assert [one["status"] for one in found["contenders"]] == ["failed", "ok", "failed"]
    assert found["contenders"][0]["error"].startswith("metric close gave NaN")
    assert found["contenders"][1]["metrics"]["close"]["variant"] == 100
    assert found["pairs"] == []
    with pytest.raises(UserError, match="metric close gave NaN"):
        fna.compare(model, batches, "fna", landmarks=2, layers="all", **quick)


def test_an_error_relative_to_zeros_takes_no_pair_with_it() -> None:
    """One contender gives zeros only: beside full that is an error of 1, beside it every other is infinitely far off."""

    def outcome(output: float) -> Outcome:
        none = [""] * 4
        return Outcome(list("abcd"), {"seen": np.ones(4)}, np.full((4, 2), output), np.zeros(4, np.int64), none, none)

    def metrics(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"seen": 100.0 * sums["seen"] / 4}

    paired = Paired([outcome(1), outcome(0), outcome(2)], metrics, draws=100)
    assert paired.pair(0, 1).fidelity["output_error"] == 1
    assert np.isinf(paired.pair(1, 2).fidelity["output_error"])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_target_that_is_none_of_the_classes_is_refused(label: int) -> None:
    model = zoo("hf_dinov2")
    batches = [(images(), torch.tensor([0, 1, 2, 0, 1, label]))]
    with pytest.raises(UserError, match=f"target {label} is none of 3 classes"):
        fna.compare(model, batches, "exact", metric="top1", forward=lambda x: model(x).pooler_output[:, :3], rounds=0)


def test_a_metric_may_have_any_name() -> None:
    def seen(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full((len(outputs),), 0.25)

    found = fna.compare(zoo("open_clip"), [(images(), torch.arange(6))], "exact", metric=seen, rounds=0, bootstrap=100)
    assert found.result["metrics"]["seen"]["full"] == 25


def test_top_5_is_told_of_more_than_five_classes_only() -> None:
    """Among two classes the right one is always one of five."""

    def ran(classes: int, right: int) -> Scored:
        counts = {"seen": np.ones(3, np.int64), "top1": np.full(3, right), "top5": np.ones(3, np.int64)}
        outputs = np.ones((3, classes), np.float32)
        return Scored(FULL, "key", "recipe", Outcome(list("abc"), counts, outputs, np.zeros(3, np.int64), ["x"] * 3, ["x"] * 3), ())

    def metrics(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: 100.0 * sums[key] / sums["seen"] for key in ("top1", "top5")}

    for classes, told in ((2, {"top1"}), (5, {"top1"}), (6, {"top1", "top5"})):
        paired = Versus(ran(classes, 1), [], metrics, draws=10, seed=0).paired
        assert set(paired.pair(0, 0).metrics) == told
