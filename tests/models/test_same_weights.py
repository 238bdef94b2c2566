"""The same weights through open_clip, timm and transformers give the same figures, full attention and FNA alike, to 0.1 point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fna.models.base import Model
from fna.models.hf import HuggingFaceModel
from fna.models.open_clip import OpenClipModel
from fna.models.timm import TimmModel
from fna.ops.nystrom import FastNystrom
from fna.surgery.swap import swap_tower
from tests.models.test_hf_files import CPU, DINO, _known, clip  # noqa: F401  a fixture

TEXTS = torch.randint(0, 48, (24, 8), generator=torch.Generator().manual_seed(1)).index_fill(1, torch.tensor([7]), 49)


def images(count: int, side: int) -> Tensor:
    """Smooth pictures, all different."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic")


def features(model: Model, x: Tensor) -> Tensor:
    """Normalised vectors of the images: the embedding, or all patches."""
    encode = model.encode_image if model.encode_text else model.patches
    assert encode is not None
    return torch.nn.functional.normalize(encode(x).flatten(1), dim=-1)


def figures(model: Model, x: Tensor, texts: Tensor | None) -> dict[str, float]:
    """What a run would tell, in percent: FNA's output error, agreement on the nearest other image, likeness of the best text."""
    with torch.inference_mode():
        full = features(model, x)
        plan: Any = dict.fromkeys(range(model.depth // 2, model.depth), FastNystrom(landmarks=6))
        with swap_tower(model.tower, plan):
            changed = features(model, x)
    near = [(one @ one.T).fill_diagonal_(-2).argmax(1) for one in (full, changed)]
    told = {"error": float((changed - full).norm() / full.norm()), "agreement": float((near[0] == near[1]).float().mean())}
    if texts is not None:
        told |= {f"best text {name}": float((one @ texts.T).amax(1).mean()) for name, one in (("full", full), ("fna", changed))}
    return {name: 100 * value for name, value in told.items()}


def test_a_clip_in_both_formats_through_both_libraries(tmp_path: Path) -> None:
    net = clip(tmp_path, "gelu")
    through = {
        "transformers": HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU),
        "open_clip, their folder": OpenClipModel("tiny-hf", checkpoint=str(tmp_path)).build(**CPU),
    }
    save_file(dict(through["open_clip, their folder"].tower.state_dict()), tmp_path / "own.safetensors")
    through["open_clip, its own file"] = OpenClipModel("tiny-hf", checkpoint=str(tmp_path / "own.safetensors")).build(**CPU)
    with torch.inference_mode():
        texts = torch.nn.functional.normalize(net.get_text_features(input_ids=TEXTS).pooler_output, dim=-1)
    found = {name: figures(model, images(12, 32), texts) for name, model in through.items()}
    for told in found.values():
        assert told == pytest.approx(found["transformers"], abs=0.1)
    assert found["transformers"]["error"] > 1  # FNA did something


@pytest.mark.skipif(not DINO.is_dir(), reason="the shared DINOv2-S is not on this machine")
def test_dinov2_through_timm_and_transformers() -> None:
    """With positions resampled alike; each library's own way differs by more than that, and a note of the run says which it is."""
    size = {**CPU, "image_size": 112}
    x = images(3, 112)
    own = figures(HuggingFaceModel(checkpoint=str(DINO)).build(**size), x, None)
    alike = TimmModel("vit_small_patch14_dinov2", checkpoint=str(DINO), positions="transformers").build(**size)
    antialiased = TimmModel("vit_small_patch14_dinov2", checkpoint=str(DINO)).build(**size)
    assert figures(alike, x, None) == pytest.approx(own, abs=0.1)
    assert figures(antialiased, x, None) != pytest.approx(own, abs=0.1)
    assert any("antialiased, as timm" in note for note in antialiased.notes)
    assert own["error"] > 1
