"""The control: the whole model on a smaller image, by its own position resampling, and back bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fna.errors import UserError
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.probe import recording
from fna.surgery.resolution import set_image_size
from fna.surgery.smaller import Resize
from fna.surgery.variant import Variant
from tests.surgery.zoo import fresh, images, run, zoo

HALF = Variant("", {0: Exact()}, reduce=Resize(scale=0.5))


def smaller(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["timm", "timm_registers", "open_clip", "eva", "eva_dinov3"])
def test_it_is_the_model_built_for_the_smaller_image(family: str) -> None:
    model, other, x = fresh(family), fresh(family), images()
    with HALF.on(model):
        ours = run(model, x)
    set_image_size(other, 16)
    with Variant("", {0: Exact()}).on(other):
        torch.testing.assert_close(ours, run(other, smaller(x, 16)), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["hf_clip", "hf_siglip", "hf_dinov2"])
def test_transformers_resamples_on_the_fly(family: str) -> None:
    model, x = zoo(family), images()
    options = set_image_size(model, 16)
    expected = model(pixel_values=smaller(x, 16), **options).last_hidden_state
    with HALF.on(model):
        ours = run(model, x)
    prefix = find_tower(model).prefix
    assert ours.shape[1] == prefix + 16
    torch.testing.assert_close(ours[:, :prefix], expected[:, :prefix], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(
    "family", ["timm", "eva", "eva_mixed", "open_clip", "open_clip_sequence_first", "hf_clip", "hf_siglip_pair"]
)
def test_the_model_is_given_back_with_its_very_parameters(family: str) -> None:
    model, x = zoo(family), images()
    before, parameters = run(model, x), dict(model.named_parameters())
    with HALF.on(model):
        assert not torch.allclose(run(model, x), before, atol=1e-4)
    assert torch.equal(run(model, x), before)
    after = dict(model.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameters[name] for name in after)


@torch.inference_mode()
def test_patches_are_interpolated_back_onto_the_grid() -> None:
    model, other, x = fresh("timm"), fresh("timm"), images()
    with HALF.on(model):
        ours = model.forward_features(x)
    set_image_size(other, 16)
    small = other.forward_features(smaller(x, 16))
    wanted = F.interpolate(small[:, 1:].transpose(1, 2).unflatten(2, (2, 2)), (4, 4), mode="bilinear").flatten(2).transpose(1, 2)
    assert ours.shape[1] == 17
    torch.testing.assert_close(ours[:, :1], small[:, :1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.norm(wanted).shape, ours[:, 1:].shape)


@torch.inference_mode()
def test_an_image_that_changes_size_inside_and_a_tower_that_others_resize() -> None:
    """Positions always come from the first table, never from one that was resampled before."""
    model, other, x = fresh("timm"), fresh("timm"), images(size=64)
    with HALF.on(model):
        set_image_size(model, 64)
        ours = run(model, x)
        set_image_size(model, 32)
        again = run(model, images())
    set_image_size(other, 32)
    with Variant("", {0: Exact()}).on(other):
        torch.testing.assert_close(ours, run(other, smaller(x, 32)), rtol=1e-4, atol=1e-5)
    fresh_one = fresh("timm")
    with HALF.on(fresh_one):
        torch.testing.assert_close(again, run(fresh_one, images()), rtol=1e-5, atol=1e-6)


def test_sides_are_whole_patches_and_at_least_one() -> None:
    assert Resize(scale=0.7).size((224, 224), (16, 16)) == (160, 160)
    assert Resize(scale=0.7).size((364, 476), (14, 14)) == (252, 336)
    assert Resize(scale=0.01).size((224, 112), (16, 16)) == (16, 16)


@torch.inference_mode()
def test_its_tokens_cannot_be_looked_at_one_by_one() -> None:
    model = zoo("timm")
    watched = HALF.on(model)
    with watched, pytest.raises(UserError, match="a smaller image has other tokens"), recording(model, print, calls=("cls_gives",)):
        run(model, images())
    with HALF.on(model):
        assert run(model, images()).isfinite().all()
