"""Towers are found, and their description computes what their blocks compute."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import nn

import fna
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


def clip_without_a_vit(**vision):
    """A CLIP of open_clip whose image tower is convolutions: the text tower is the only run of blocks in it."""
    text = {"context_length": 8, "vocab_size": 60, "width": 32, "heads": 2, "layers": DEPTH}
    return open_clip.CLIP(16, {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8} | vision, text)


@pytest.mark.parametrize("vision", [{}, {"timm_model_name": "convnext_atto", "timm_pool": "avg", "timm_proj": "linear"}])
def test_a_text_tower_is_never_taken_for_the_image_tower_that_is_none(vision):
    model = clip_without_a_vit(**vision)
    images = r"its image tower \(visual: \w+\) is none"
    way = r"reads texts; to change that one, say so with fna\.swap\(model, blocks=model\.transformer\.resblocks\)\.$"
    with pytest.raises(UserError, match=f"CLIP holds no vision transformer that fna knows: {images}.*{way}"):
        find_tower(model)
    with pytest.raises(UserError, match="no vision transformer"):
        fna.swap(model, "fna", part="vision")
    assert fna.swap(model, "exact", layers="all", blocks=model.transformer.resblocks).tower.blocks == tuple(
        model.transformer.resblocks
    )
    assert find_tower(model.transformer).blocks == tuple(model.transformer.resblocks)  # the module itself is what was meant


class Own(nn.Module):
    """Some modules of somebody's own and a run of blocks, as wide as 32."""

    def __init__(self, **parts):
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 2, 32) for _ in range(DEPTH))
        for name, part in parts.items():
            self.add_module(name, part)


def test_a_model_of_ones_own_keeps_its_image_tower_whatever_tables_lie_beside_it():
    stem = nn.Sequential(nn.Conv2d(3, 32, 8, 8))
    for parts in (
        {"cut": stem},
        {"cut": stem, "pos_embed": nn.Embedding(17, 32)},
        {"cut": stem, "where": nn.Embedding(17, 32)},
        {
            "backbone": nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 99, 1)),
            "proj": nn.Conv2d(99, 32, 1),
            "query": nn.Embedding(5, 32),
        },
        {"vit": Own(cut=stem), "classes": nn.Embedding(10, 7)},
        {"words": nn.Embedding(60, 32)},  # a text encoder alone was handed over as it is
    ):
        model = nn.ModuleDict(parts) if "vit" in parts else Own(**parts)
        assert len(find_tower(model).blocks) == DEPTH, parts
    with pytest.raises(UserError, match=r"its image tower \(eyes: Sequential\) is none.*model\.blocks"):
        find_tower(Own(eyes=nn.Sequential(nn.Conv2d(3, 8, 3)), words=nn.Embedding(60, 32)))


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("timm", 1), ("timm_map_pool", 0), ("timm_registers", 5), ("open_clip", 1), ("hf_siglip", 0), ("hf_dinov2_registers", 5)],
)
def test_prefix(name, prefix):
    assert find_tower(zoo(name)).prefix == prefix


def test_unknown_models_are_refused_with_what_is_known():
    with pytest.raises(UserError) as error:
        find_tower(nn.Sequential(nn.Linear(2, 2)))
    said = str(error.value)
    assert said.startswith("Sequential holds no vision transformer that fna knows, and no attention: there is nothing to swap;")
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
