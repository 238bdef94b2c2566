"""What fna's own methods promise on real weights and photographs (docs/fna_plus.md, docs/fna_local.md); bounds leave room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fna import swap
from fna.configs import build_attention, instantiate, load_option
from fna.models.base import Model

IMAGES = 40


@pytest.fixture(scope="module")
def vit(shared_data: Path) -> Model:
    node = load_option("model", "vit_tiny_tinyimagenet")
    node.checkpoint = str(shared_data / "vit_tiny_tinyimagenet" / "model.safetensors")
    node.classes = str(shared_data / "vit_tiny_tinyimagenet" / "classes.tsv")
    return instantiate(node).build(image_size=None, device="cpu", dtype="float32", seed=0)


@pytest.fixture(scope="module")
def photographs(shared_data: Path, vit: Model) -> Tensor:
    files = sorted((shared_data / "tiny_imagenet" / "val").rglob("*.JPEG"))
    return torch.stack([vit.transform(Image.open(file).convert("RGB")) for file in files[:: len(files) // IMAGES][:IMAGES]])


def output_error(vit: Model, photographs: Tensor, name: str, landmarks: int, layers: str = "6-11") -> float:
    """Mean over images of the relative error of the logits."""
    with torch.inference_mode():
        full = vit.tower(photographs)
        with swap(vit.tower, build_attention(name, landmarks=landmarks), layers=layers):
            found = vit.tower(photographs)
    return float(((found - full).norm(dim=1) / full.norm(dim=1)).mean())


@pytest.mark.parametrize(("landmarks", "bound"), [(16, 0.085), (32, 0.045)])
def test_fna_plus_stays_near_full_attention_in_the_last_half(vit: Model, photographs: Tensor, landmarks: int, bound: float) -> None:
    plus = output_error(vit, photographs, "fna_plus", landmarks)
    assert plus <= bound
    assert plus < 0.5 * output_error(vit, photographs, "fna", landmarks)


def test_fna_local_stays_near_full_attention_in_all_blocks(vit: Model, photographs: Tensor) -> None:
    local = output_error(vit, photographs, "fna_local", 32, "all")
    assert local <= 0.11
    assert local < 0.2 * output_error(vit, photographs, "fna", 32, "all")
