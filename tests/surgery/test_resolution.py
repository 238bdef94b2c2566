"""Another image size: more tokens, positions resampled, attention still swappable."""

from __future__ import annotations

import pytest
import torch

from fna.errors import UserError
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.resolution import set_image_size
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import DEPTH, Spy, fresh

NAMES = [
    "timm", "timm_registers", "timm_map_pool", "eva", "eva_dinov3", "eva_mixed", "open_clip", "open_clip_custom", "open_clip_timm",
    "hf_clip", "hf_clip_pair", "hf_siglip", "hf_siglip_pair", "hf_dinov2", "hf_dinov2_registers",
]  # fmt: skip


def forward(model, x, options):
    if hasattr(model, "encode_image"):
        return model.encode_image(x, **options)
    if hasattr(model, "get_image_features"):
        return model.get_image_features(pixel_values=x, **options).pooler_output
    out = model(x, **options)
    return out if isinstance(out, torch.Tensor) else out.last_hidden_state


@pytest.mark.parametrize("size", [48, (40, 64)], ids=["square", "wide"])
@pytest.mark.parametrize("name", NAMES)
def test_more_tokens(name, size):
    model, sites = fresh(name), []
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    options = set_image_size(model, size)
    with torch.no_grad():
        stock = forward(model, x, options)
        with swap_tower(model, dict.fromkeys(range(DEPTH), Exact())):
            torch.testing.assert_close(forward(model, x, options), stock, rtol=1e-5, atol=1e-5)
        with swap_tower(model, {1: Spy(sites)}):
            forward(model, x, options)
    assert stock.isfinite().all()
    assert sites[0].tokens.grid == (height // 8, width // 8)
    assert sites[0].hidden.shape[1] == find_tower(model).prefix + height * width // 64


@pytest.mark.parametrize("name", NAMES)
def test_the_size_it_has_changes_nothing(name):
    model = fresh(name)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stock = forward(model, x, {})
        torch.testing.assert_close(forward(model, x, set_image_size(model, 32)), stock, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["timm", "open_clip", "hf_clip"])
@pytest.mark.parametrize("size", [7, (32, 33), 0, -8])
def test_sizes_that_do_not_divide(name, size):
    with pytest.raises(UserError, match=r"^image_size=.*patches are 8x8 pixels; use a multiple of that\.$"):
        set_image_size(fresh(name), size)


def test_open_clip_resamples_from_squares_only():
    model = fresh("open_clip")
    with pytest.raises(UserError, match=r"open_clip resamples square grids only"):
        set_image_size(model, (16, 64))
    set_image_size(model, (16, 48))
    with pytest.raises(UserError, match=r"not \(2, 6\) to"):
        set_image_size(model, 32)


def test_positions_of_open_clip_stay_a_parameter_of_their_kind():
    model = fresh("open_clip").bfloat16()
    model.visual.positional_embedding.requires_grad_(False)
    set_image_size(model, 48)
    new = model.visual.positional_embedding
    assert (new.shape[0], new.dtype, new.requires_grad) == (37, torch.bfloat16, False)
    assert "visual.positional_embedding" in model.state_dict()
