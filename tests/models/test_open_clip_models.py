"""open_clip models: QuickGELU, preprocessing and sizes as the tag says; local files; folders of fna's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from fna.configs import load_option
from fna.errors import UserError
from fna.models.open_clip import OpenClipModel
from fna.models.open_clip_sizes import tokens_of
from fna.models.open_clip_text import openai_templates
from fna.surgery.blocks import find_tower

CPU: Any = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}
VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TAGS = {"openai": {"file": "", "quick_gelu": True, "mean": (0.1, 0.2, 0.3)}, "laion": {"file": "", "quick_gelu": False}}
TINY = OpenClipModel(name="tiny-clip", random=True, depth=2, patch_size=8)


@pytest.fixture(autouse=True)
def _tiny_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "tiny-clip" and its two tags known to open_clip, as if they were published."""
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", TAGS)
    timm_tower = {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none"}
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, "tiny-timm", {"embed_dim": 192, "vision_cfg": timm_tower, "text_cfg": TEXT}
    )


@pytest.fixture
def quick(tmp_path: Path) -> tuple[Path, Any]:
    """A file of weights that were "trained" with QuickGELU, and the network they come from."""
    net: Any = replace(TINY, quick_gelu=True).build(**CPU).tower
    save_file(net.state_dict(), tmp_path / "quick.safetensors")
    return tmp_path / "quick.safetensors", net


def source(path: Path, **options: Any) -> OpenClipModel:
    return replace(TINY, random=False, checkpoint=str(path), **options)


def test_openai_weights_run_with_quick_gelu(quick: tuple[Path, Any]) -> None:
    path, net = quick
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, sentence = net.encode_image(images), net.encode_text(open_clip.tokenize(["a dog"]))
        for options, same in (({"pretrained": "openai"}, True), ({"pretrained": "laion"}, False), ({"quick_gelu": True}, True)):
            model = source(path, **options).build(**CPU)
            assert model.encode_image is not None
            assert model.encode_text is not None
            assert torch.allclose(model.encode_image(images), expected, atol=1e-6) == same
            assert torch.allclose(model.encode_text(["a dog"]), sentence, atol=1e-6) == same


@pytest.mark.parametrize("option", ["clip_l14", "clip_l336", "clip_b16", "clip_b32", "siglip"])
def test_published_models(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape facts and activation of what conf/model names, without weights or memory."""
    config = (
        load_option("model", "clip_l14")
        if option == "clip_l14"
        else {**load_option("model", "clip_l14"), **load_option("model", option)}
    )
    model = OpenClipModel(**{key: value for key, value in config.items() if key not in ("_target_", "defaults")})
    monkeypatch.setattr(open_clip.factory, "_set_model_device_and_precision", lambda *rest: None)  # it cannot move what has no data
    with torch.device("meta"):
        net = model._created(model._tag())
    tokens, depth, patch = tokens_of(net.visual, model.name)
    assert (depth, patch) == (model.depth, model.patch_size)
    assert tokens.prefix == (0 if option == "siglip" else 1)
    if option != "siglip":
        assert {type(block.mlp.gelu).__name__ for block in net.visual.transformer.resblocks} == {"QuickGELU"}
        assert {type(block.mlp.gelu).__name__ for block in net.transformer.resblocks} == {"QuickGELU"}
    else:
        assert net.visual.preprocess_cfg["resize_mode"] == "squash"


def test_the_tag_says_the_preprocessing(quick: tuple[Path, Any]) -> None:
    transform: Any = source(quick[0], pretrained="openai").build(**CPU).transform
    assert tuple(transform.transforms[-1].mean) == TAGS["openai"]["mean"]


def test_higher_resolution_resamples_positions(quick: tuple[Path, Any]) -> None:
    model = source(quick[0]).build(**{**CPU, "image_size": 64})
    assert (model.tokens.grid, model.token_count, model.image_size) == ((8, 8), 65, (64, 64))
    visual: Any = model.tower.visual
    assert torch.equal(visual.positional_embedding[0], quick[1].visual.positional_embedding[0])
    assert model.weights.digest == source(quick[0]).build(**CPU).weights.digest
    with torch.inference_mode():
        assert model.encode_image is not None
        assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 16)
    for size in (7, 36):
        with pytest.raises(UserError, match="multiples of 8"):
            source(quick[0]).build(**{**CPU, "image_size": size})


@pytest.mark.parametrize("size", [128, (128, 256)])
def test_the_embedded_half_precision_weights_at_another_size(size: int | tuple[int, int]) -> None:
    from PIL import Image

    from fna.configs import instantiate
    from fna.models.base import pixels

    model = instantiate(load_option("model", "clip_shapes")).build(**{**CPU, "image_size": size})
    shape = pixels(size)
    assert shape is not None
    assert (model.image_size, model.tokens.grid) == (shape, (shape[0] // 8, shape[1] // 8))
    image = model.transform(Image.new("RGB", (300, 280)))
    assert image.shape == (3, *shape)
    with torch.inference_mode():
        assert model.encode_image(image[None]).isfinite().all()


def test_a_timm_tower_is_resized_after_loading(tmp_path: Path) -> None:
    small = OpenClipModel(name="tiny-timm", random=True)
    save_file(small.build(**CPU).tower.state_dict(), tmp_path / "w.safetensors")
    model = replace(small, random=False, checkpoint=str(tmp_path / "w.safetensors")).build(**{**CPU, "image_size": 64})
    assert (model.tokens.grid, model.depth) == ((4, 4), 12)
    from PIL import Image

    assert model.transform(Image.new("RGB", (80, 90))).shape == (3, 64, 64)
    with torch.inference_mode():
        assert model.encode_image is not None
        assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 192)


def test_checkpoints_that_do_not_fit(quick: tuple[Path, Any], tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in quick[1].state_dict().items()}
    save_file({**state, "text_projection": torch.zeros(5, 5)}, tmp_path / "shape.safetensors")
    with pytest.raises(
        UserError, match=r"shape\.safetensors: does not fit open_clip tiny-clip: text_projection is \[5, 5\], expected \[32, 16\]"
    ):
        source(tmp_path / "shape.safetensors").build(**CPU)
    del state["visual.proj"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"1 of \d+ tensors are missing \(first: visual\.proj\)"):
        source(tmp_path / "less.safetensors").build(**CPU)
    with pytest.raises(UserError, match="its sha256 is"):
        source(quick[0], sha256="0" * 64).build(**CPU)


def test_names_tags_and_weights_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"model\.random=true"):
        replace(TINY, random=False).check()
    with pytest.raises(UserError, match="no such model"):
        replace(TINY, name="ViT-Z-99").build(**CPU)
    with pytest.raises(UserError, match="it has openai, laion"):
        replace(TINY, pretrained="opnai").build(**CPU)
    monkeypatch.setattr("fna.models.weights._hub_answers", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(UserError, match=r"open_clip ViT-B-32 openai: .*model\.checkpoint=PATH"):
        OpenClipModel(name="ViT-B-32", pretrained="openai")._downloaded(open_clip.get_pretrained_cfg("ViT-B-32", "openai"))


def test_a_folder_brings_everything(tmp_path: Path) -> None:
    import gzip

    text = {**TEXT, "vocab_size": 512 + 1 + 2}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}})
    )
    (tmp_path / "merges.txt.gz").write_bytes(gzip.compress(b"#version\na b</w>"))
    folder = OpenClipModel(name=f"local-dir:{tmp_path}")
    with pytest.raises(UserError, match="no such checkpoint"):
        folder.check()
    first = replace(folder, random=True).build(**CPU)
    save_file(first.tower.state_dict(), tmp_path / "model.safetensors")
    model = folder.build(**CPU)
    assert model.weights.digest == first.weights.digest
    with torch.inference_mode():
        assert model.encode_text is not None
        assert model.encode_text(["ab", "ab ab", "x"] * 100).shape == (300, 16)
    (tmp_path / "model.sha256").write_text("0" * 64 + "  model.safetensors\n")
    with pytest.raises(UserError, match="its sha256 is"):
        folder.build(**CPU)


def test_text_in_pieces_is_text_at_once() -> None:
    encode = TINY.build(**CPU).encode_text
    assert encode is not None
    sentences = [f"number {index}" for index in range(300)]
    with torch.inference_mode():
        assert torch.allclose(encode(sentences)[290:], encode(sentences[290:]), atol=1e-6)


def test_there_are_80_templates() -> None:
    assert len(openai_templates()) == 80
    assert openai_templates()[0]("cat") == "a bad photo of a cat."


def test_a_tokenizer_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fna.models.weights._hub_answers", lambda endpoint: False)
    with pytest.raises(UserError, match=r"the tokenizer of open_clip tiny-clip: .*model\.tokenizer=PATH"):
        replace(TINY, tokenizer=str(tmp_path))._tokenizer()


def test_how_a_file_is_run_is_said_with_the_way_to_say_otherwise(quick: tuple[Path, Any]) -> None:
    model = source(quick[0], pretrained="openai").build(**CPU)
    assert len(model.notes) == 1
    for words in (
        "the weights openai of tiny-clip",
        "QuickGELU, mean 0.1 0.2 0.3",
        "model.quick_gelu=false",
        "model.pretrained=TAG",
    ):
        assert words in model.notes[0]
    assert "run with QuickGELU" in model.weights_line
    told = {"quick_gelu": True, "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear", "resize_mode": "squash"}
    other = source(quick[0], pretrained="openai", **told).build(**CPU)
    assert other.notes == []
    assert (other.settings["mean"], other.settings["resize_mode"]) == ([0, 0, 0], "squash")
    assert other.identity != model.identity
    assert other.weights.digest == model.weights.digest


def test_a_position_table_of_another_size_is_not_resampled_in_silence(quick: tuple[Path, Any], tmp_path: Path) -> None:
    large = replace(TINY, quick_gelu=True).build(**{**CPU, "image_size": 64})
    save_file(large.tower.state_dict(), tmp_path / "large.safetensors")
    with pytest.raises(UserError, match=r"images of 64x64 px, the model's for 32x32; give image_size=64"):
        source(tmp_path / "large.safetensors").build(**CPU)
    model = source(tmp_path / "large.safetensors", quick_gelu=True).build(**{**CPU, "image_size": 64})
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert model.encode_image is not None
        assert large.encode_image is not None
        assert torch.equal(model.encode_image(images), large.encode_image(images))
    assert not any("resampled" in note for note in model.notes)
    ways = [source(quick[0], positions=how).build(**{**CPU, "image_size": 64}) for how in (None, "transformers")]
    assert [any("resampled from 4x4 to 8x8" in note for note in way.notes) for way in ways] == [True, True]
    with torch.inference_mode():
        assert ways[0].encode_image is not None
        assert ways[1].encode_image is not None
        assert (ways[0].encode_image(images) - ways[1].encode_image(images)).abs().max() < 1  # upwards antialiasing does little
    assert ways[0].identity != ways[1].identity


def test_a_file_of_another_model_of_open_clips_names_it(monkeypatch: pytest.MonkeyPatch, quick: tuple[Path, Any]) -> None:
    config = {"embed_dim": 16, "vision_cfg": {**VISION, "width": 96}, "text_cfg": TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "wide-clip", config)
    with pytest.raises(UserError, match=r"looks like tiny-clip: give model\.name=tiny-clip"):
        replace(source(quick[0]), name="wide-clip").build(**CPU)


def test_no_size_is_asked_for_where_the_patches_are_others_too(monkeypatch: pytest.MonkeyPatch, quick: tuple[Path, Any]) -> None:
    config = {"embed_dim": 16, "vision_cfg": {**VISION, "patch_size": VISION["patch_size"] // 2}, "text_cfg": TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "fine-clip", config)
    with pytest.raises(UserError, match=r"conv1\.weight is .*looks like tiny-clip: give model\.name=tiny-clip\.$") as refused:
        replace(source(quick[0]), name="fine-clip").build(**CPU)
    assert "image_size" not in str(refused.value)


def one_of_each_image_tower() -> list[tuple[str, bool]]:
    """For each class of image tower that open_clip's built-in models have, the smallest such model, and whether it is a ViT."""
    sizes: dict[tuple[str, bool], list[tuple[int, str]]] = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, text = config["vision_cfg"], config["text_cfg"]
        stages = isinstance(vision.get("layers"), list)  # of a ResNet
        family = vision.get("timm_model_name", "resnet" if stages else "open_clip").partition("_")[0]
        vit = not stages and family not in ("convnext", "swin", "fastvit")
        if "hf_model_name" not in text:
            sizes.setdefault((family, vit), []).append((config["embed_dim"], name))
    return [(min(there)[1], vit) for (_, vit), there in sizes.items()]


@pytest.mark.parametrize(("name", "vit"), one_of_each_image_tower())
def test_every_built_in_model_is_built_or_refused_in_a_line(name: str, vit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip.factory, "_set_model_device_and_precision", lambda *rest: None)  # it cannot move what has no data
    model = OpenClipModel(name=name, random=True)
    with torch.device("meta"):
        if vit:
            net = model._created({})
            assert "activation" in model._settings(net, None, 1.0)
            assert len(find_tower(net).blocks) == tokens_of(net.visual, name)[1]
            return
        with pytest.raises(UserError, match=rf"^model\.name={name}: its image tower is no vision transformer; choose a ViT\.$"):
            model.build(**CPU | {"image_size": 256})


def test_a_text_tower_that_is_fetched_from_a_hub_out_of_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = r"^the text tower roberta-base of open_clip roberta-ViT-B-32: not on this machine, and .*local-dir:FOLDER"
    with torch.device("meta"), pytest.raises(UserError, match=said):
        OpenClipModel(name="roberta-ViT-B-32", random=True).build(**CPU)
