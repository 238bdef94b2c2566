"""Towers are found, and their description computes what their blocks compute."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import nn

from fna.errors import UserError
from fna.surgery.blocks import KINDS, SPECS, find_tower, run_blocks
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import BUILDERS, DEPTH, Keep, images, run, zoo

EVERY = sorted(BUILDERS)


def calls(name):
    """The tower of a model, and the arguments and result of each of its blocks."""
    model = zoo(name)
    tower, seen = find_tower(model), []
    hooks = [
        block.register_forward_hook(lambda _, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True)
        for block in tower.blocks
    ]
    with torch.no_grad():
        run(model, images())
    for hook in hooks:
        hook.remove()
    return tower, seen


@pytest.mark.parametrize("name", EVERY)
def test_the_description_computes_what_the_block_computes(name):
    tower, seen = calls(name)
    assert len(tower.blocks) == len(tower.specs) == len(seen) == DEPTH
    for block, spec, (args, kwargs, out) in zip(tower.blocks, tower.specs, seen, strict=True):
        kwargs = dict(kwargs)
        x, *rest = args or (kwargs.pop("hidden_states"),)
        with torch.no_grad():
            middle = spec.attend(block, x, *rest, **kwargs)
            ours = spec.feed(block, middle)
        torch.testing.assert_close(ours, out[0] if isinstance(out, tuple) else out, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(middle, x)
        assert not torch.allclose(middle, ours)


@pytest.mark.parametrize("name", EVERY)
def test_the_mlp_activation_can_be_watched(name):
    """Emptying the input of the MLP's last layer leaves its bias alone: it is the only way from the hidden units out."""
    tower, seen = calls(name)
    block, spec = tower.blocks[1], tower.specs[1]
    out = spec.mlp_out(block)
    assert isinstance(out, nn.Linear)
    assert (
        out.out_features == tower.blocks[1].state_dict()[next(k for k in block.state_dict() if "norm" in k or "ln_1" in k)].shape[0]
    )
    hook = out.register_forward_pre_hook(lambda _, args: (torch.zeros_like(args[0]),))
    x = seen[1][0][0] if seen[1][0] else seen[1][1]["hidden_states"]
    with torch.no_grad():
        moved = spec.feed(block, x) - x
    hook.remove()
    assert torch.allclose(moved, moved[:1, :1].expand_as(moved), atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_run_of_blocks(name):
    tower, seen = calls(name)
    args, kwargs, _ = seen[1]
    kwargs = dict(kwargs)
    x, *rest = args or (kwargs.pop("hidden_states"),)
    if "eva_mixed" in name:
        pytest.skip("each of its blocks has a rotary table of its own")
    with torch.no_grad():
        out = run_blocks(tower.blocks[1:], x, *rest, **kwargs)
    last = seen[-1][2]
    torch.testing.assert_close(out, last[0] if isinstance(last, tuple) else last)


def test_the_block_list_comes_from_a_table_not_from_a_guess():
    """Trap 3: timm keeps its blocks in nn.Sequential, the others in nn.ModuleList."""
    kinds = {type(zoo(name).blocks if name == "timm" else zoo(name).visual.transformer.resblocks) for name in ("timm", "open_clip")}
    assert kinds == {nn.Sequential, nn.ModuleList}
    for name in ("timm", "open_clip", "hf_dinov2"):
        assert len(find_tower(zoo(name)).blocks) == DEPTH


def test_a_tower_is_found_inside_whatever_holds_it():
    tower = find_tower(zoo("hf_clip_pair"))
    assert find_tower(nn.ModuleDict({"a": nn.Linear(1, 1), "b": zoo("hf_clip_pair")})).blocks == tower.blocks
    assert find_tower(zoo("open_clip").visual).module is find_tower(zoo("open_clip")).module
    assert find_tower(zoo("open_clip_timm")).family == "timm"


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("timm", 1), ("timm_map_pool", 0), ("timm_registers", 5), ("open_clip", 1), ("hf_siglip", 0), ("hf_dinov2_registers", 5)],
)
def test_prefix(name, prefix):
    assert find_tower(zoo(name)).prefix == prefix


def test_unknown_models_are_refused_with_what_is_known():
    with pytest.raises(UserError) as error:
        find_tower(nn.Sequential(nn.Linear(2, 2)))
    assert str(error.value) == "Sequential holds no vision transformer that fna knows, and no attention: there is nothing to swap."
    with pytest.raises(UserError, match="no language transformer"):
        find_tower(zoo("timm"), "language")
    with pytest.raises(UserError, match="holds 2 vision transformers"):
        find_tower(nn.ModuleList([zoo("timm"), zoo("eva")]))
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(2, 2), embed_dim=8, num_heads=(1, 1))
    with pytest.raises(UserError, match=r"SwinTransformer holds 2 runs of blocks \(2 SwinTransformerBlock in"):
        find_tower(swin)


def test_unknown_blocks_and_attentions_are_refused():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    with pytest.raises(
        UserError, match=r"block 0 \(ParallelThingsBlock\) should call torch's attention in one place and has 2 of them"
    ):
        find_tower(VisionTransformer(**options, block_fn=ParallelThingsBlock))


def test_a_subclass_with_a_forward_of_its_own_is_something_else():
    class Odd(type(zoo("timm").blocks[0].attn)):
        def forward(self, x, **_):
            return x

    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    with pytest.raises(UserError, match=r"attention of class tests\.Odd is unknown to fna, and not torch's own"):
        swap_tower(VisionTransformer(**options, attn_layer=Odd), {0: Keep()})


def test_every_row_of_the_table_is_well_formed():
    assert all(key.partition(".")[0] in ("timm", "torchvision", "open_clip", "transformers") for key in (*KINDS, *SPECS))
