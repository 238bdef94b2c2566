"""Dense tasks under a reducer: every patch of the image gets what the token that it went into has, whatever layer is asked."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from fna.models.base import Model
from fna.models.open_clip import OpenClipModel
from fna.models.timm import TimmModel
from fna.ops.contract import Tokens
from fna.ops.exact import Exact
from fna.surgery.variant import Variant
from fna.tasks.dense import sized
from fna.tasks.features import patch_features
from fna.tasks.maskclip import MaskClip
from fna.tasks.released import class_and_patches
from tests.reduce.test_contract import NAMES, Watching, made

SIDES = (64, 96)


@pytest.fixture(scope="module")
def vit() -> Model:
    source = TimmModel("vit_tiny_patch16_224", random=True, num_classes=3)
    return source.build(image_size=SIDES, device="cpu", dtype="float32", seed=0)


@pytest.fixture(scope="module")
def clip() -> Model:
    return OpenClipModel("zoo:clip_shapes", random=True).build(image_size=None, device="cpu", dtype="float32", seed=0)


def photos(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *SIDES, generator=torch.Generator().manual_seed(0))


def under(model: Model, name: str, **options: Any) -> Any:
    reducer = made(name, **options)
    return Variant("", {0: Exact()}, reduce=reducer).on(model.tower)


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES)
def test_features_of_any_block_lie_on_the_grid_of_the_image(vit: Model, name: str) -> None:
    assert vit.patches is not None
    with under(vit, name, r=2, scale=0.5):
        own, four = patch_features(vit, photos()), patch_features(vit, photos(), 4)
        assert own.shape == (2, 192, 4, 6)
        assert four.shape == (2, 4 * 192, 4, 6)
        assert torch.equal(four[:, -192:], own)
        assert torch.equal(own.flatten(2).transpose(1, 2), vit.patches(photos()))
        assert class_and_patches(vit, photos(), 2).shape == (2, 3 * 192)
    assert patch_features(vit, photos()).isfinite().all()


@torch.inference_mode()
def test_patches_that_were_merged_have_the_same_features_and_others_do_not(vit: Model) -> None:
    seen: list[tuple[Tensor, Tensor, Tokens]] = []
    watching = Watching(made("tome", r=1), seen)
    with Variant("", {0: Exact()}, reduce=watching).on(vit.tower):
        features = patch_features(vit, photos(), 2).flatten(2).transpose(1, 2)
    for layer, part in ((-2, features[..., :192]), (-1, features[..., 192:])):
        source = seen[layer][2].source
        assert source is not None
        for image in range(2):
            for a in range(24):
                for b in range(a):
                    together = bool(source[image, 1 + a] == source[image, 1 + b])
                    assert torch.equal(part[image, a], part[image, b]) == together


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES)
def test_words_as_a_head(clip: Model, name: str) -> None:
    x = torch.rand(2, 3, *clip.image_size, generator=torch.Generator().manual_seed(0))
    stock = MaskClip().features(clip, x)
    with under(clip, name, r=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the head has an attention of its own in the last block
        assert MaskClip().features(clip, x).shape == stock.shape
    assert torch.equal(MaskClip().features(clip, x), stock)


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES)
def test_images_of_other_sizes(vit: Model, name: str) -> None:
    """As segmentation with short_side= has them: the tower is resized inside the variant, and back."""
    larger = torch.rand(1, 3, 96, 128)
    before = patch_features(vit, photos())
    with under(vit, name, r=2):
        inside = patch_features(vit, photos())
        with sized(vit, (96, 128)):
            assert patch_features(vit, larger).shape == (1, 192, 6, 8)
        assert torch.allclose(patch_features(vit, photos()), inside, atol=1e-5)
    assert torch.equal(patch_features(vit, photos()), before)
