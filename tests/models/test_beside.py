"""What lies beside weights is followed or refused: config.json, preprocessor_config.json, open_clip_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import Tensor

from fna.errors import UserError
from fna.models.hf import HuggingFaceModel
from fna.models.open_clip import OpenClipModel
from fna.models.timm import TimmModel
from tests.models.test_hf_files import CPU, TINY, VISION, clip, saved, vectors
from tests.surgery.zoo import liven

OWN = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
WORDS = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: dict[str, Any] = {"embed_dim": 16, "vision_cfg": OWN, "text_cfg": WORDS}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-hf", plain)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-quick", {**plain, "quick_gelu": True})


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def picture() -> Image.Image:
    pixels = torch.randint(0, 255, (67, 100, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.byte().numpy())


def say(file: Path, changes: dict[str, Any]) -> None:
    """Change settings of a JSON file, one by one or a tower's."""
    config = json.loads(file.read_text())
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(("given", "runs"), [(None, "QuickGELU"), (True, "QuickGELU"), (False, "GELU")])
def test_quick_gelu_is_as_given_though_the_named_config_says_otherwise(given: bool | None, runs: str) -> None:
    model = OpenClipModel("tiny-quick", random=True, quick_gelu=given).build(**CPU)
    assert model.settings["activation"] == runs


def test_quick_gelu_is_refused_for_a_tower_that_has_a_fixed_activation() -> None:
    with pytest.raises(UserError, match=r"model\.quick_gelu=true: ViT-B-16-SigLIP has a tower whose activation is fixed"):
        OpenClipModel("ViT-B-16-SigLIP", random=True, quick_gelu=True).check()


BOTH = ("vision_config", "text_config")
FOLLOWED: list[dict[str, Any]] = [
    {key: {"layer_norm_eps": 0.01} for key in BOTH},
    {key: {"hidden_act": "relu"} for key in BOTH},
    {"vision_config": {"hidden_act": "gelu_new"}},
    {"text_config": {"hidden_act": "gelu"}},
]


@pytest.mark.parametrize("changes", FOLLOWED)
def test_clip_through_open_clip_is_run_as_its_config_says_of_both_towers(changes: dict[str, Any], tmp_path: Path) -> None:
    clip(tmp_path)
    usual = OpenClipModel("tiny-hf", checkpoint=str(tmp_path)).build(**CPU)
    say(tmp_path / "config.json", changes)
    model = OpenClipModel("tiny-hf", checkpoint=str(tmp_path)).build(**CPU)
    net = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    images, words = noise(2, 3, 32, 32), torch.tensor([[48, 5, 6, 7, 49, 1, 1, 1]])
    with torch.inference_mode():
        assert model.encode_image is not None
        assert torch.allclose(model.encode_image(images), vectors(net.get_image_features(pixel_values=images)), atol=1e-4)
        tower: Any = model.tower
        assert torch.allclose(tower.encode_text(words), vectors(net.get_text_features(input_ids=words)), atol=1e-4)
    assert model.identity != usual.identity


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_config": {"num_attention_heads": 4}}, "num_attention_heads is 4, open_clip tiny-hf has 2 heads.*model=hf"),
        ({"text_config": {"num_attention_heads": 4}}, "num_attention_heads is 4, open_clip tiny-hf has 2 heads.*model=hf"),
        ({"vision_config": {"hidden_act": "mish"}}, "hidden_act is mish, not .*model=hf"),
        ({"vision_config": {"num_attention_heads": "two"}}, "no clip to transformers .*num_attention_heads.*; mend it"),
    ],
)
def test_what_open_clip_cannot_build_is_refused_with_both_values_and_the_way(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    clip(tmp_path)
    say(tmp_path / "config.json", changes)
    with pytest.raises(UserError, match=rf"config\.json: {words}"):
        OpenClipModel("tiny-hf", checkpoint=str(tmp_path)).build(**CPU)


@pytest.mark.parametrize("changes", [{"num_attention_heads": 6}, {"hidden_act": "relu"}, {"hidden_act": "quick_gelu"}])
def test_a_vit_through_timm_is_built_as_its_config_says(changes: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, "ViTForImageClassification", transformers.ViTConfig(**TINY, intermediate_size=768, num_labels=3))
    images = noise(1, 3, 224, 224)
    with torch.inference_mode():
        usual = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path)).build(**CPU).patches
        say(tmp_path / "config.json", changes)
        model = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path)).build(**CPU)
        net = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
        assert model.patches is not None
        assert usual is not None
        got = model.patches(images)
        assert torch.allclose(got, net.vit(images).last_hidden_state[:, 1:], atol=1e-4)
        assert not torch.allclose(got, usual(images), atol=1e-2)


def test_the_pooler_that_transformers_puts_beside_a_vit_is_no_hindrance(tmp_path: Path) -> None:
    net = saved(tmp_path, "ViTModel", transformers.ViTConfig(**TINY, intermediate_size=768))
    model = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path)).build(**CPU)
    images = noise(1, 3, 224, 224)
    with torch.inference_mode():
        assert model.patches is not None
        assert torch.allclose(model.patches(images), net(images).last_hidden_state[:, 1:], atol=1e-4)


PROCESSORS = {
    "cut": lambda side: transformers.CLIPImageProcessor(
        size={"shortest_edge": side + 8}, crop_size={"height": side, "width": side}
    ),
    "squashed": lambda side: transformers.ViTImageProcessor(size={"height": side, "width": side}),
    "squashed and cut": lambda side: transformers.DeiTImageProcessor(
        size={"height": side + 8, "width": side + 8}, crop_size={"height": side, "width": side}
    ),
    "lanczos": lambda side: transformers.ViTImageProcessor(size={"height": side, "width": side}, resample=1),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_are_made_as_the_processor_makes_them_by_all_three_libraries(kind: str, tmp_path: Path) -> None:
    clip(tmp_path / "clip")
    saved(tmp_path / "vit", "ViTModel", transformers.ViTConfig(**TINY, intermediate_size=768))
    sources: list[tuple[Any, Path, int]] = [
        (OpenClipModel("tiny-hf", checkpoint=str(tmp_path / "clip")), tmp_path / "clip", 32),
        (HuggingFaceModel(checkpoint=str(tmp_path / "clip")), tmp_path / "clip", 32),
        (TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path / "vit")), tmp_path / "vit", 224),
    ]
    for source, folder, side in sources:
        processor = PROCESSORS[kind](side)
        processor.save_pretrained(folder)
        expected = processor(picture(), return_tensors="pt")["pixel_values"][0]
        assert (source.build(**CPU).transform(picture()) - expected).abs().mean() < 1e-3, source


def test_crop_and_squash_that_were_given_overrule_the_processor(tmp_path: Path) -> None:
    saved(tmp_path, "ViTModel", transformers.ViTConfig(**TINY, intermediate_size=768))
    PROCESSORS["squashed"](224).save_pretrained(tmp_path)
    given = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path), crop_pct=0.5, crop_mode="center").build(**CPU)
    assert (given.settings["crop_pct"], given.settings["crop_mode"]) == (0.5, "center")


def test_a_processor_that_leaves_out_mean_and_std_is_followed_for_the_rest(tmp_path: Path) -> None:
    clip(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"resample": 2, "size": {"shortest_edge": 40}, "crop_size": 32}')
    model = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    assert (model.settings["interpolation"], model.settings["crop_pct"]) == ("bilinear", 0.8)
    assert any("says no mean, std; they are run as clip usually is" in note for note in model.notes)


@pytest.mark.parametrize(("kind", "mode"), [("ViTFeatureExtractor", "squash"), ("CLIPFeatureExtractor", "shortest")])
def test_a_bare_size_means_what_it_means_to_the_processor_that_is_named(kind: str, mode: str, tmp_path: Path) -> None:
    clip(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"feature_extractor_type": kind, "size": 32, "crop_size": 32}))
    assert HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU).settings["resize_mode"] == mode


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"size": 32, "do_flip_channel_order": True}, "do_flip_channel_order: fna knows no such step"),
        ({"size": 32, "do_resize": False}, "do_resize=false"),
        ({"size": 0}, "size 0"),
        ({"image_processor_type": "ViTImageProcessor", "size": "big"}, "ViTImageProcessor does not take it"),
    ],
)
def test_steps_that_fna_does_not_run_are_refused_before_loading(said: dict[str, Any], words: str, tmp_path: Path) -> None:
    clip(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    for source in (HuggingFaceModel(checkpoint=str(tmp_path)), OpenClipModel("tiny-hf", checkpoint=str(tmp_path))):
        with pytest.raises(UserError, match=words):
            source.check()


def test_a_config_beside_weights_of_another_name_is_said_to_be_unread(tmp_path: Path) -> None:
    saved(tmp_path, "ViTModel", transformers.ViTConfig(**TINY, intermediate_size=768))
    (tmp_path / "model.safetensors").rename(tmp_path / "mine.safetensors")
    for path, said in ((tmp_path / "mine.safetensors", True), (tmp_path, False)):
        notes = TimmModel("vit_tiny_patch16_224", checkpoint=str(path)).build(**CPU).notes
        assert any("config.json is not read, for mine.safetensors" in note for note in notes) == said


def test_an_open_clip_config_beside_the_weights_is_held_against_the_named_model(tmp_path: Path) -> None:
    net: Any = OpenClipModel("tiny-quick", random=True).build(**CPU).tower
    torch.save(net.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    said = {"model_cfg": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": OWN, "text_cfg": WORDS}}
    said["preprocess_cfg"] = {"mean": [0.1, 0.2, 0.3]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"quick_gelu is True, tiny-hf has None; model\.name=local-dir:.* runs it as it says"):
        OpenClipModel("tiny-hf", checkpoint=str(tmp_path)).check()
    assert OpenClipModel("tiny-hf", checkpoint=str(tmp_path), quick_gelu=False).build(**CPU).settings["activation"] == "GELU"
    assert OpenClipModel("tiny-quick", checkpoint=str(tmp_path)).build(**CPU).settings["mean"] == [0.1, 0.2, 0.3]


def test_what_timms_own_config_says_of_pixels_is_followed(tmp_path: Path) -> None:
    net = TimmModel("vit_tiny_patch16_224", random=True, num_classes=0).build(**CPU).tower
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    said = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.95}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    model = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path)).build(**CPU)
    assert (model.settings["mean"], model.settings["crop_pct"]) == ([0.1, 0.2, 0.3], 0.95)
    assert not [note for note in model.notes if "says architecture" in note]
    other = said | {"architecture": "vit_tiny_patch16_384"}
    (tmp_path / "config.json").write_text(json.dumps(other))
    (note,) = (
        note
        for note in TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path)).build(**CPU).notes
        if "says architecture" in note
    )
    assert note.endswith(
        "architecture vit_tiny_patch16_384, run as vit_tiny_patch16_224: model.name=vit_tiny_patch16_384 follows it"
    )


@pytest.mark.parametrize("said", [{"model_args": {"global_pool": "avg", "fc_norm": False}}, {"global_pool": "avg"}])
def test_what_timms_own_config_says_of_how_it_was_built_is_followed(said: dict[str, Any], tmp_path: Path) -> None:
    """Its tensors do not show how a network pools, nor how it was built beyond its name."""
    options = {"global_pool": "avg", "fc_norm": False} if "model_args" in said else {"global_pool": "avg"}
    net = liven(timm.create_model("test_vit", num_classes=3, **options)).eval()
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", **said}))
    model = TimmModel("test_vit", checkpoint=str(tmp_path)).build(**CPU)
    images = torch.rand(2, 3, *model.image_size)
    assert model.classify is not None
    torch.testing.assert_close(model.classify(images), net(images))
    assert "pool avg" in model.weights_line
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "model_args": {"layers": 7}}))
    with pytest.raises(UserError, match=r"timm does not build test_vit with \{'layers': 7\}"):
        TimmModel("test_vit", checkpoint=str(tmp_path)).build(**CPU)


@pytest.mark.parametrize("given", [{"interpolation": "foo"}, {"mean": [0.1, 0.2]}, {"std": [0, 1, 1]}, {"domain": "x"}])
def test_values_given_in_code_are_held_as_those_of_the_command_line(given: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, "Dinov2Model", transformers.Dinov2Config(**VISION))
    key = next(iter(given))
    for source in (
        HuggingFaceModel(checkpoint=str(tmp_path), **given),
        TimmModel("vit_tiny_patch16_224", random=True, **given),
        OpenClipModel("tiny-hf", random=True, **given),
    ):
        with pytest.raises(UserError, match=rf"model\.{key}=.*: give "):
            source.build(**CPU)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (OpenClipModel("zoo:clip_shapes", pretrained="nope"), "model.pretrained=nope: zoo:clip_shapes is embedded"),
        (OpenClipModel("zoo:clip_shapes", tokenizer="/nope"), "model.tokenizer=/nope: no folder with a tokenizer"),
        (OpenClipModel("zoo:clip_shapes", sha256="0" * 64), "its sha256 is"),
        (OpenClipModel("tiny-hf", random=True, sha256="0" * 64), "model.random=true has none"),
        (TimmModel("vit_tiny_patch16_224", random=True, sha256="0" * 64), "tells one file from others"),
        (TimmModel("vit_tiny_patch16_224.nope", pretrained=True), "has no weights nope of vit_tiny_patch16_224; it has augreg"),
        (TimmModel("vit_giant_patch14_224", pretrained=True), "timm has no weights for it"),
        (TimmModel("vit_base_patch16_224", pretrained=True), "weights of timm vit_base_patch16_224: not on this machine"),
        (OpenClipModel("ViT-L-14", pretrained="openai"), "weights of open_clip ViT-L-14 openai: not on this machine"),
        (OpenClipModel("ViT-L-14", pretrained="openia"), "model.pretrained=openia: open_clip has no such weights"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(source: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fna.models.weights._hub_answers", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nonexistent")

    def before_building() -> None:
        source.check()
        source.check_published()

    with pytest.raises(UserError) as refused:
        before_building()
    assert words in str(refused.value)


@pytest.mark.parametrize("given", [{"tokenizer": "/nope"}, {"classes": "/nope"}, {"sha256": "0" * 64, "random": True}])
def test_what_a_model_of_transformers_would_not_use_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, "Dinov2Model", transformers.Dinov2Config(**VISION))
    with pytest.raises(UserError, match=r"leave it out|drop one of them"):
        HuggingFaceModel(checkpoint=str(tmp_path), **given).check()


def test_a_way_of_resampling_that_resamples_nothing_is_noted() -> None:
    notes = OpenClipModel("tiny-hf", random=True, positions="transformers").build(**CPU).notes
    assert notes == ["model.positions=transformers changes nothing here: the position table is used at its own size"]
