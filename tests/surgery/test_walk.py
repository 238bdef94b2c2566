"""Every image and video encoder of the installed transformers: swapped with exact it equals stock, or a line says why not."""

from __future__ import annotations

import time

import pytest
import torch
import transformers

import fna
from fna.errors import UserError
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.found import find_stacks
from fna.surgery.swap import swap_tower
from tests.surgery import walk
from tests.surgery.zoo import liven

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FEW = ("ViTModel", "DeiTModel", "BeitModel", "DINOv3ViTModel", "Siglip2VisionModel", "Aimv2VisionModel", "VideoMAEModel")
FEW += ("VJEPA2Model", "Qwen3VLVisionModel", "PixtralVisionModel", "InternVLVisionModel", "YolosModel", "SamVisionModel")
BY_HAND = (
    "Swinv2Model",
    "HieraModel",
    "LevitModel",
    "MobileViTModel",
    "PvtV2Model",
    "VitDetModel",
    "TimesformerModel",
    "ImageGPTModel",
)


UNLIKE = "FastNystrom needs as many queries as keys"
REFUSED = {"HieraModel": UNLIKE, "LevitModel": UNLIKE, "PvtV2Model": UNLIKE, "ImageGPTModel": "FastNystrom cannot honour 'dense'"}


@pytest.mark.parametrize("name", FEW + BY_HAND)
def test_some_encoders_swapped_with_exact_equal_stock(name):
    told = walk.outcome(getattr(transformers, name))
    assert told.exact == ""
    assert told.fna.startswith(REFUSED[name]) if name in REFUSED else not told.fna


@pytest.mark.slow
def test_the_walk_over_all_encoders():
    """The counts stand in docs/models.md. Whoever attends by softmax from token to token and runs at all works; "FNA runs" where
    through all tokens and a solve it equals stock to 1e-4."""
    began, told = time.process_time(), {}
    for cls in walk.encoders():
        told[cls.__name__] = walk.outcome(cls)
    works = [name for name, why in told.items() if not why.exact]
    runs = [name for name in works if not told[name].fna]
    none = [name for name, why in told.items() if "there is nothing to swap" in why.exact]
    for name, why in told.items():
        print(f"{name}: {why.exact or 'works'}{f'; FNA: {why.fna}' if why.fna != why.exact else ''}")
    print(f"{len(told)} classes: {len(works)} work, in {len(runs)} FNA runs, {len(none)} have no attention")
    print(f"{time.process_time() - began:.0f} s")
    assert len(works) >= 134
    assert len(runs) >= 113
    lines = [line for why in told.values() for line in (why.exact, why.fna)]
    assert all("\n" not in line and "differs from stock" not in line and "no difference" not in line for line in lines)


@pytest.mark.parametrize("name", ["ViTModel", "DeiTModel", "DINOv3ViTModel", "Dinov2Model", "Aimv2VisionModel", "IJepaModel"])
def test_a_row_says_the_prefix_that_the_model_has(name):
    """Tokens entering the first block are those of the patches' grid and the row's prefix."""
    model, given = walk.small(getattr(transformers, name))
    tower, seen = find_tower(model), []
    hooks = [
        tower.blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape[1]), with_kwargs=True
        ),
        tower.patches.register_forward_hook(lambda _, args, out: seen.append(out.shape[-2] * out.shape[-1])),
    ]
    with torch.inference_mode():
        model(**given)
    for hook in hooks:
        hook.remove()
    assert seen[1] == tower.prefix + seen[0]


@pytest.mark.parametrize(
    "name", ["ViTModel", "ViTMSNModel", "InternVLVisionModel", "Aimv2VisionModel", "DINOv3ViTModel", "PixioModel"]
)
def test_the_pieces_of_a_row_put_together_are_the_block(name):
    model, given = walk.small(getattr(transformers, name))
    tower, seen = find_tower(model), []
    block, spec = tower.blocks[1], tower.specs[1]
    hook = block.register_forward_hook(lambda _, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True)
    with torch.inference_mode():
        model(**given)
        hook.remove()
        args, kwargs, out = seen[0]
        rebuilt = spec.feed(block, spec.attend(block, *args, **kwargs))
    torch.testing.assert_close(rebuilt, out[0] if isinstance(out, tuple) else out, rtol=1e-5, atol=1e-5)


def test_a_block_without_a_row_is_swapped_and_what_needs_one_says_so():
    model, given = walk.small(transformers.Tipsv2VisionModel)
    with torch.inference_mode():
        stock = walk.results(model, given)
        with fna.swap(model, Exact(), layers="all", prefix=1) as swap:
            assert "before the patches" not in repr(swap)
            assert walk.close(walk.results(model, given), stock)
        with fna.swap(model, Exact(), layers="all") as swap:
            assert "nobody says which tokens stand before the patches: taken as none" in repr(swap)
    with pytest.raises(UserError, match=r"fna does not know its norms and MLP|rotary positions"):
        fna.swap(model, Exact(), layers="all", reduce="tome")


def test_several_towers_are_listed_with_their_tokens_and_part_says_which():
    model = _two()
    with pytest.raises(UserError, match=r"holds 2 vision transformers: a .*ViTLayer, 17 tokens.*; b .*part=PATH"):
        fna.swap(model, Exact())
    with fna.swap(model, Exact(), part="b") as swap:
        assert swap.tower.module is model.b
    bert = transformers.BertModel(transformers.BertConfig(**SMALL))
    with pytest.raises(UserError, match=r"no vision transformer .* it holds encoder \(2 BertLayer, 512 tokens, part=encoder\)"):
        fna.swap(bert, Exact())
    with fna.swap(bert, Exact(), part="language"):
        pass


def _two() -> torch.nn.Module:
    config = transformers.ViTConfig(**SMALL, image_size=64)
    return torch.nn.ModuleDict({name: transformers.ViTModel(config).eval() for name in "ab"})


def test_the_image_encoder_of_a_model_that_segments_is_found_beside_its_decoder():
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32, "output_channels": 16}
    vision |= {"image_size": 128, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    prompt = {"hidden_size": 16, "image_size": 128}
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    model, image, points = transformers.SamModel(config).eval(), torch.randn(1, 3, 128, 128), torch.full((1, 1, 1, 2), 40.0)
    with torch.inference_mode():
        stock = model(pixel_values=image, input_points=points).pred_masks
        with fna.swap(model, Exact(), layers="all") as swap:
            assert set(swap.tower.windowed) == {0}
            masks = model(pixel_values=image, input_points=points).pred_masks
    torch.testing.assert_close(masks, stock, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["Beit", "Swin"])
def test_biases_of_transformers_table_are_taken_by_rows_and_columns(kind):
    if kind == "Beit":
        config = transformers.BeitConfig(**SMALL, image_size=64, use_relative_position_bias=True)
    else:
        config = transformers.SwinConfig(image_size=64, embed_dim=16, depths=[2], num_heads=[2], window_size=4, patch_size=4)
    model = liven(getattr(transformers, f"{kind}Model")(config))
    x, blocks = torch.randn(2, 3, 64, 64), range(2)
    with torch.inference_mode():
        stock = model(x).last_hidden_state
        for op, tolerance in ((Exact(), 1e-5), (walk.LIMIT, 1e-4)):
            with swap_tower(find_tower(model), dict.fromkeys(blocks, op)):
                torch.testing.assert_close(model(x).last_hidden_state, stock, atol=tolerance * float(stock.abs().max()), rtol=0)


def test_windowed_blocks_are_seen_as_such():
    config = transformers.LwDetrViTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, window_block_indices=[0, 2])
    with torch.device("meta"):
        tower = find_tower(transformers.LwDetrViTBackbone(config))
    assert set(tower.windowed) == {0, 2}
    assert tower.layers("all") == (1, 3)
    assert tower.layers("0-3") == (0, 1, 2, 3)
    assert tower.windows().startswith("blocks 1, 3 are global")


def test_wrong_input_is_one_line_that_names_what_was_found():
    vit = _two()["a"]
    with torch.device("meta"):
        convolutions = transformers.ConvNextModel(transformers.ConvNextConfig())
        linear = transformers.MobileViTV2Model(transformers.MobileViTV2Config())
    for model, options, match in (
        (convolutions, {}, "ConvNextModel holds no vision transformer .* no attention"),
        (linear, {}, "MobileViTV2LinearSelfAttention"),
        (vit, {"prefix": 17}, "prefix=17: this transformers.ViTModel has 17 tokens"),
        (torch.compile(vit), {}, "already compiled"),
    ):
        with pytest.raises(UserError, match=match) as refusal:
            fna.swap(model, Exact(), **options)
        assert "\n" not in str(refusal.value)
    with swap_tower(vit, {0: Exact()}), pytest.raises(UserError, match="already changed"):
        fna.swap(vit, Exact())


def test_causal_stacks_and_decoders_are_no_vision():
    with torch.device("meta"):
        model = transformers.DetrModel(transformers.DetrConfig(encoder_layers=1, decoder_layers=1))
    assert [stack.made_of for stack in find_stacks(model)] == ["DetrEncoderLayer", "DetrDecoderLayer"]
    assert find_tower(model).blocks[0] is model.encoder.layers[0]
