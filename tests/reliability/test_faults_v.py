"""Cases of a fourteenth pair of eyes, what of them failed: models that give one number a sample."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import fna
from fna.errors import UserError
from fna.metrics.neighbours import nearest_other


def batches(count: int = 3) -> list[Tensor]:
    return list(torch.randn(count, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def vit() -> Any:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5, depth=3).eval()
    with torch.no_grad():
        for block in model.blocks:  # attention that matters
            block.attn.qkv.weight.mul_(20)
            block.attn.proj.weight.mul_(20)
    return model


def compared(pick: Any, **options: Any) -> Any:
    model = vit()
    return fna.compare(model, batches(), "fna", layers="all", landmarks=2, forward=lambda x: pick(model(x)), rounds=0, **options)


@pytest.mark.parametrize(
    "pick", [lambda out: out[:, :1].sigmoid(), lambda out: out[:, 0], lambda out: out[:, :1].sigmoid().squeeze(1)]
)
def test_one_number_a_sample_is_no_class_that_always_agrees(pick: Any) -> None:
    found = compared(pick)
    assert found.result["fidelity"]["agreement"] < 100
    assert any("one number a sample" in note for note in found.result["notes"])


def test_outputs_without_a_second_axis_are_a_column() -> None:
    flat, column = compared(lambda out: out[:, 0]), compared(lambda out: out[:, :1])
    assert flat.result["fidelity"]["agreement"] == column.result["fidelity"]["agreement"]
    assert flat.result["fidelity"]["output_error"] == pytest.approx(column.result["fidelity"]["output_error"])


def test_top1_of_one_number_is_refused() -> None:
    model = vit()
    loader = [(images, torch.zeros(4, dtype=torch.int64)) for images in batches()]
    with pytest.raises(UserError, match="metric=top1: the model gives one number a sample"):
        fna.compare(model, loader, "fna", landmarks=2, forward=lambda x: model(x)[:, 0], metric="top1", rounds=0)


def test_the_nearest_of_single_numbers_is_nearest_by_their_difference() -> None:
    values = np.array([[1.0], [5.0], [1.5], [-1.4]])
    assert nearest_other(values, ["a", "b", "c", "d"]).tolist() == [2, 2, 0, 0]  # by cosine all of one sign would be equal


def test_a_head_of_one_row_is_asked_for_the_nearest_other_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from fna.tasks import fidelity

    outputs = np.array([[0.1], [0.9], [0.2]], np.float32)
    monkeypatch.setattr(fidelity, "look", lambda *_: SimpleNamespace(kept=[0, 1, 2], outputs=outputs, skipped=[]))
    dataset: Any = SimpleNamespace(name="d", examples=[SimpleNamespace(key=key) for key in "abc"], notes=[])
    model: Any = SimpleNamespace(name="m", classify=lambda x: x, encode_image=None, classes=None)
    run: Any = SimpleNamespace(sharing=nullcontext)
    task = fidelity.Fidelity()
    outcome = task.evaluate(model, dataset, run)
    assert outcome.decisions.tolist() == [2, 2, 0]
    assert len(task.notes(outcome, dataset)) == 1


@dataclass(frozen=True)
class Half:
    """Attention over every ``stride``-th key."""

    stride: int = 2

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k[:, :, :: self.stride], v[:, :, :: self.stride])


def test_two_of_one_class_are_called_by_what_they_were_given() -> None:
    found = fna.compare(vit(), batches(), Half(), versus=[Half(3), Half(5)], rounds=0)
    shown = str(found)
    assert all(f"\n{name}" in shown for name in ("Half ", "Half(stride:3)", "Half(stride:5)"))


def test_two_lambdas_are_two_contenders() -> None:
    found = fna.compare(vit(), batches(), lambda q, k, v, site: v, versus=[lambda q, k, v, site: v * 0.5], rounds=0)
    assert "<lambda> (2)" in str(found)
