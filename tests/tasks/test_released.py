"""A released linear head: its inputs by hand, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fna.data.base import Dataset, Labelled
from fna.errors import UserError
from fna.models.timm import TimmModel
from fna.tasks.base import Prepared, Run
from fna.tasks.classification import Classification
from fna.tasks.released import ReleasedHead, class_and_patches


@pytest.mark.parametrize("blocks", [1, 4])
def test_class_tokens_and_the_mean_patch(tmp_path: Path, labelled: Dataset[Labelled], blocks: int) -> None:
    model = TimmModel("vit_tiny_patch16_224", random=True, num_classes=0).build(
        image_size=32, device="cpu", dtype="float32", seed=0
    )
    net: Any = model.tower
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        found = class_and_patches(model, images, blocks)
        layers = net.get_intermediate_layers(images, n=blocks, norm=True, return_prefix_tokens=True)
    expected = torch.cat([*(prefix[:, 0] for _, prefix in layers), layers[-1][0].mean(1)], -1)
    assert torch.allclose(found, expected, atol=1e-5)
    file = tmp_path / "head.safetensors"
    save_file({"weight": torch.randn(3, 192 * (blocks + 1)), "bias": torch.zeros(3)}, file)
    task = ReleasedHead(head="head", checkpoint=str(file))
    task.check(model, labelled)
    assert isinstance(task, Classification)
    assert isinstance(task, Prepared)
    first = task.prepare(model, labelled, Run(batch_size=2))
    outcome = task.evaluate(model, labelled, Run(batch_size=2))
    assert outcome.outputs.shape == (4, 3)
    with torch.inference_mode():
        assert task.forward(model)(images).shape == (2, 3)
    save_file({"weight": torch.randn(3, 192 * (blocks + 1)), "bias": torch.ones(3)}, file)
    assert task.prepare(model, labelled, Run(batch_size=2)) != first


def test_what_does_not_fit_is_refused(tmp_path: Path, labelled: Dataset[Labelled]) -> None:
    model = TimmModel("vit_tiny_patch16_224", random=True, num_classes=0).build(
        image_size=32, device="cpu", dtype="float32", seed=0
    )
    file = tmp_path / "head.safetensors"
    save_file({"weight": torch.randn(3, 400), "bias": torch.zeros(3)}, file)
    with pytest.raises(UserError, match=r"400 inputs, .* gives 192 for each block"):
        ReleasedHead(checkpoint=str(file)).check(model, labelled)
    save_file({"other": torch.randn(3)}, file)
    with pytest.raises(UserError, match="not the weight and bias"):
        ReleasedHead(checkpoint=str(file)).check(model, labelled)
    with pytest.raises(UserError, match=r"task\.checkpoint is needed"):
        ReleasedHead().check(replace(model), labelled)
