"""Hugging Face folders: equal to transformers' own outputs, through timm's and open_clip's towers and through model=hf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from fna.errors import UserError
from fna.models import hf_files, open_clip_files
from fna.models.hf import HuggingFaceModel
from fna.models.open_clip import OpenClipModel
from fna.models.timm import TimmModel
from fna.ops.exact import Exact
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import liven

CPU: Any = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}
TINY: Any = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "image_size": 224, "patch_size": 16}
VISION: Any = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TEXT: Any = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 50}
TEXT |= {"max_position_embeddings": 8, "bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 1}
DINO = Path(__file__).resolve().parents[3] / "shared" / "data" / "dinov2_s_saliency"


def saved(folder: Path, name: str, config: Any) -> Any:
    torch.manual_seed(0)
    net = liven(getattr(transformers, name)(config))
    net.save_pretrained(folder)
    return net


def clip(folder: Path, activation: str = "quick_gelu") -> Any:
    vision = {**VISION, "intermediate_size": 256, "hidden_act": activation}
    text = {**TEXT, "hidden_act": activation}
    return saved(folder, "CLIPModel", transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16))


def vectors(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out.pooler_output


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    models = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(models, "tiny-hf", {"embed_dim": 16, "vision_cfg": own, "text_cfg": text})


@pytest.mark.skipif(not DINO.is_dir(), reason="the shared DINOv2-S is not on this machine")
@pytest.mark.parametrize(("size", "positions"), [(518, None), (224, "transformers")])
@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_the_real_dinov2_through_timm_equals_transformers(size: int, positions: str | None, file: str) -> None:
    if size == 518 and file:
        pytest.skip("once at full size is enough")
    source = TimmModel("vit_small_patch14_dinov2", checkpoint=str(DINO / file), positions=positions)
    assert source.abilities == {"encode_image", "patches"}
    model = source.build(**{**CPU, "image_size": size})
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = transformers.Dinov2Model.from_pretrained(DINO, dtype=torch.float32).eval()(images).last_hidden_state[:, 1:]
        assert model.patches is not None
        assert torch.allclose(model.patches(images), expected, atol=1e-4)
    assert any("37x37 to 16x16" in note for note in model.notes) == (size == 224)


@pytest.mark.skipif(not DINO.is_dir(), reason="the shared DINOv2-S is not on this machine")
def test_the_way_of_resampling_is_said_and_part_of_the_identity() -> None:
    source = {how: TimmModel("vit_small_patch14_dinov2", checkpoint=str(DINO), positions=how) for how in (None, "transformers")}
    timm, other = (source[how].build(**{**CPU, "image_size": 70}) for how in (None, "transformers"))
    assert any("antialiased, as timm" in note and "model.positions=transformers" in note for note in timm.notes)
    assert timm.identity != other.identity
    assert timm.weights == other.weights
    with pytest.raises(UserError, match=r"model\.positions=nearest: give timm or transformers or null"):
        TimmModel("vit_small_patch14_dinov2", checkpoint=str(DINO), positions="nearest").check()


@pytest.mark.skipif(not DINO.is_dir(), reason="the shared DINOv2-S is not on this machine")
def test_a_model_of_another_width_is_named() -> None:
    with pytest.raises(UserError, match=r"looks like vit_small_patch14_dinov2: give model\.name=vit_small_patch14_dinov2"):
        TimmModel("vit_base_patch14_dinov2.lvd142m", checkpoint=str(DINO)).build(**CPU)


@pytest.mark.parametrize("in_memory", [False, True], ids=["saved by transformers", "names of release 5"])
def test_a_vit_with_its_classes_through_timm(in_memory: bool, tmp_path: Path) -> None:
    labels = {number: f"thing {number}" for number in range(7)}
    net = saved(tmp_path, "ViTForImageClassification", transformers.ViTConfig(**TINY, intermediate_size=768, id2label=labels))
    if in_memory:
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, tmp_path / "model.safetensors")
    model = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path)).build(**CPU)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert model.classify is not None
        assert torch.allclose(model.classify(images), net(images).logits, atol=1e-4)
    assert model.classes == list(labels.values())
    assert model.settings["norm_eps"] == 1e-12  # the config's, which is not timm's


def test_dinov2_with_registers_through_timm(tmp_path: Path) -> None:
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14
    )
    net = saved(tmp_path, "Dinov2WithRegistersModel", config)
    source = TimmModel("vit_small_patch14_reg4_dinov2", checkpoint=str(tmp_path))
    model = source.build(**{**CPU, "image_size": 518})
    images = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert model.patches is not None
        assert torch.allclose(model.patches(images), net(images).last_hidden_state[:, 5:], atol=1e-3)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_through_open_clip_takes_the_activation_of_the_config(activation: str, tmp_path: Path) -> None:
    net = clip(tmp_path, activation)
    model = OpenClipModel("tiny-hf", checkpoint=str(tmp_path)).build(**CPU)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    words = torch.tensor([[48, 5, 6, 7, 49, 1, 1, 1], [48, 9, 49, 1, 1, 1, 1, 1]])
    with torch.inference_mode():
        assert model.encode_image is not None
        assert torch.allclose(model.encode_image(images), vectors(net.get_image_features(pixel_values=images)), atol=1e-4)
        tower: Any = model.tower
        assert torch.allclose(tower.encode_text(words), vectors(net.get_text_features(input_ids=words)), atol=1e-4)
    assert model.settings["activation"] == ("QuickGELU" if activation == "quick_gelu" else "GELU")


def test_siglip_through_open_clip(tmp_path: Path) -> None:
    """open_clip can only name timm's stock sizes, so a small tower is put in after."""
    from open_clip.model import CustomTextCLIP
    from timm.models.vision_transformer import VisionTransformer

    text = {**TEXT, "hidden_act": "gelu", "projection_size": 64}
    vision = {**VISION, "intermediate_size": 256, "hidden_act": "gelu"}
    net = saved(tmp_path, "SiglipModel", transformers.SiglipConfig(vision_config=vision, text_config=text))
    own = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True, "proj_bias": True}
    own |= {"pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    tower = {"image_size": 32, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none"}
    made: Any = CustomTextCLIP(64, tower, own, init_logit_bias=-10).eval()
    made.visual.trunk = VisionTransformer(
        32, 8, embed_dim=64, depth=2, num_heads=2, class_token=False, global_pool="map", num_classes=0
    ).eval()
    found, state = open_clip_files.read(str(tmp_path), made, None)
    open_clip_files.fit(str(tmp_path), state, made, "tiny-siglip")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    words = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(made.encode_image(images), vectors(net.get_image_features(pixel_values=images)), atol=1e-4)
        assert torch.allclose(made.encode_text(words), vectors(net.get_text_features(input_ids=words)), atol=1e-4)
    assert found.others == ()


KINDS = {
    "CLIPModel": lambda folder: clip(folder),
    "SiglipModel": lambda folder: saved(
        folder, "SiglipModel", transformers.SiglipConfig(vision_config={**VISION, "intermediate_size": 64}, text_config=TEXT)
    ),
    "CLIPVisionModelWithProjection": lambda folder: saved(
        folder, "CLIPVisionModelWithProjection", transformers.CLIPVisionConfig(**VISION, projection_dim=16)
    ),
    "Dinov2Model": lambda folder: saved(folder, "Dinov2Model", transformers.Dinov2Config(**VISION)),
    "Dinov2WithRegistersModel": lambda folder: saved(
        folder, "Dinov2WithRegistersModel", transformers.Dinov2WithRegistersConfig(**VISION)
    ),
    "Dinov2ForImageClassification": lambda folder: saved(
        folder, "Dinov2ForImageClassification", transformers.Dinov2Config(**VISION, id2label={0: "cat", 1: "dog", 2: "owl"})
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_model_hf_is_transformers_own_model_and_exact_attention_leaves_it_so(kind: str, tmp_path: Path) -> None:
    net: Any = KINDS[kind](tmp_path)
    source = HuggingFaceModel(checkpoint=str(tmp_path))
    source.check()
    model = source.build(**CPU)
    assert (model.name, source.depth, source.patch_size, model.depth, model.tokens.grid) == (kind, 2, 8, 2, (4, 4))
    assert source.abilities == {able for able in ("classify", "encode_image", "encode_text", "patches") if getattr(model, able)}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        inner = net.vision_model if kind in ("CLIPModel", "SiglipModel") else getattr(net, "dinov2", net)
        assert model.patches is not None
        got = model.patches(images)
        assert got.shape == (2, 16, 64)
        if kind != "Dinov2ForImageClassification":
            assert torch.allclose(got, inner(images).last_hidden_state[:, model.tokens.prefix :], atol=1e-5)
        else:
            assert model.classify is not None
            assert torch.allclose(model.classify(images), net(images).logits, atol=1e-5)
            assert model.classes == ["cat", "dog", "owl"]
        with swap_tower(model.tower, {0: Exact(), 1: Exact()}):
            assert torch.allclose(model.patches(images), got, atol=1e-5)
    assert any("no preprocessor_config.json" in note and "model.mean" in note for note in model.notes)


def test_model_hf_at_another_size_says_how_positions_were_resampled(tmp_path: Path) -> None:
    KINDS["CLIPModel"](tmp_path)
    model = HuggingFaceModel(checkpoint=str(tmp_path)).build(**{**CPU, "image_size": (48, 64)})
    assert (model.tokens.grid, model.image_size) == ((6, 8), (48, 64))
    assert any("from 4x4 to 6x8 (bicubic, not antialiased, as transformers" in note for note in model.notes)
    with torch.inference_mode():
        assert model.encode_image is not None
        assert model.encode_image(torch.zeros(1, 3, 48, 64)).shape == (1, 16)


def test_the_processor_of_the_folder_is_honoured(tmp_path: Path) -> None:
    net = clip(tmp_path)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5] * 3
    )
    processor.save_pretrained(tmp_path)
    model = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    assert model.notes == []
    for rows, columns in ((60, 90), (60, 64), (67, 100)):  # margins even and odd: transformers rounds half a pixel down
        noise = torch.randint(0, 255, (rows, columns, 3), generator=torch.Generator().manual_seed(0))
        picture = Image.fromarray(noise.byte().numpy())
        expected = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert (model.transform(picture) - expected).abs().mean() < 0.02
    own = OpenClipModel("tiny-hf", pretrained=None, checkpoint=str(tmp_path)).build(**CPU)
    assert own.settings["mean"] == [0.1, 0.2, 0.3]
    assert OpenClipModel("tiny-hf", checkpoint=str(tmp_path), mean=(0, 0, 0)).build(**CPU).settings["mean"] == [0, 0, 0]
    assert net is not None


def test_texts_need_a_tokenizer_and_take_the_folders(tmp_path: Path) -> None:
    net = clip(tmp_path)
    model = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    assert model.encode_text is not None
    with pytest.raises(UserError, match=r"holds no tokenizer .*model\.tokenizer=FOLDER"):
        model.encode_text(["a dog"])
    vocabulary = {"<|startoftext|>": 48, "<|endoftext|>": 49, "a</w>": 2, "b</w>": 3, "a": 4, "b": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    assert again.identity != model.identity
    words = tokenizer(["a b", "b"], padding="max_length", max_length=8, return_tensors="pt")
    with torch.inference_mode():
        assert again.encode_text is not None
        expected = vectors(net.get_text_features(input_ids=words["input_ids"], attention_mask=words["attention_mask"]))
        assert torch.allclose(again.encode_text(["a b", "b"]), expected, atol=1e-5)


def test_model_hf_with_wrapped_half_precision_weights_in_a_torch_file(tmp_path: Path) -> None:
    net = KINDS["Dinov2Model"](tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(
        {"state_dict": {f"module.{name}": tensor.half() for name, tensor in tensors.items()}}, tmp_path / "pytorch_model.bin"
    )
    model = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert model.patches is not None
        assert torch.allclose(model.patches(images), net(images).last_hidden_state[:, 1:], atol=0.1)
    del tensors["layernorm.bias"]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"1 of \d+ tensors are missing \(first: layernorm\.bias\)"):
        HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "DINOv3ViTModel", "IJepaModel", "BeitModel", "MetaClip2Model"])
def test_model_hf_runs_kinds_that_no_row_names(kind: str, tmp_path: Path) -> None:
    """Class, abilities, pixels and tokens from transformers' own registries and the structure of the tower."""
    vision = {**VISION, "intermediate_size": 96}
    config = getattr(transformers, kind).config_class
    if kind == "MetaClip2Model":
        net = saved(tmp_path, kind, config(vision_config=vision, text_config={**TEXT, "hidden_act": "gelu"}, projection_dim=16))
    else:
        net = saved(tmp_path, kind, config(**vision))
    model = HuggingFaceModel(name=str(tmp_path)).build(**CPU)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert (model.name, model.tokens.grid, model.depth) == (kind, (4, 4), 2)
    with torch.inference_mode():
        assert model.patches is not None
        assert model.encode_image is not None
        got = model.patches(images)
        assert got.shape == (2, 16, 64)
        assert model.encode_image(images).shape[0] == 2
        if kind == "ViTForImageClassification":
            assert model.classify is not None
            assert torch.allclose(model.classify(images), net(images).logits, atol=1e-5)
        assert (model.encode_text is not None) == (kind == "MetaClip2Model")
        with swap_tower(model.tower, {0: Exact(), 1: Exact()}):
            assert torch.allclose(model.patches(images), got, atol=1e-5)


def test_folders_that_model_hf_cannot_run(tmp_path: Path) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(UserError) as error:
            HuggingFaceModel(**options).check()
        return str(error.value)

    assert "model.checkpoint=FOLDER" in refused()
    assert "no such checkpoint" in refused(checkpoint=str(tmp_path / "none"))
    assert "config.json: cannot be read" in refused(checkpoint=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "model_type is bert, whose BertModel takes text; model=hf runs encoders of images" in refused(checkpoint=str(tmp_path))
    assert "both say which folder" in refused(checkpoint=str(tmp_path), name=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "nobodys"}')
    assert "which transformers" in refused(checkpoint=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    assert "the folder holds no weights" in refused(checkpoint=str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": 0.5}')
    assert "three numbers are wanted" in refused(checkpoint=str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": 0.5, "rescale_factor": 1}')
    assert "rescale_factor=1" in refused(checkpoint=str(tmp_path))
    assert HuggingFaceModel().abilities is None


def test_a_folder_is_one_by_its_files_names(tmp_path: Path) -> None:
    assert hf_files.folder_of(tmp_path) == tmp_path
    assert hf_files.folder_of(tmp_path / "pytorch_model.bin") == tmp_path
    assert hf_files.folder_of(tmp_path / "mine.pt") is None


@pytest.mark.parametrize(("said", "why"), [({"do_rescale": False}, "do_rescale=false"), ({"image_std": [0, 0, 0]}, "image_std")])
def test_pixels_that_cannot_be_made_so_are_refused(tmp_path: Path, said: dict[str, object], why: str) -> None:
    clip(tmp_path)
    usual = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(usual | said))
    with pytest.raises(UserError, match=why):
        HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)


def test_a_masked_autoencoder_is_shown_all_patches_in_order(tmp_path: Path) -> None:
    """transformers hides three in four by chance, in evaluation too: no figure could be had twice."""
    saved(tmp_path, "ViTMAEModel", transformers.ViTMAEConfig(**VISION, intermediate_size=64))
    model = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    images = torch.rand(2, 3, *model.image_size)
    patches = model.patches(images)
    assert patches.shape[1] == model.token_count - 1
    assert torch.equal(patches, model.patches(images))
    shown = model.tower.embeddings(images)[0][:, 1:]
    grid = model.tower.embeddings.patch_embeddings(images) + model.tower.embeddings.position_embeddings[:, 1:]
    assert torch.equal(shown, grid)
    assert any("hides patches by chance" in note for note in model.notes)


def test_a_vit_published_without_a_pooler_gives_its_class_token(tmp_path: Path) -> None:
    """As DINO's are: a pooler of random weights is nobody's."""
    net = liven(transformers.ViTModel(transformers.ViTConfig(**VISION, intermediate_size=64), add_pooling_layer=False))
    net.save_pretrained(tmp_path)
    model = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    images = torch.rand(2, 3, *model.image_size)
    torch.testing.assert_close(model.encode_image(images), net.eval()(images).last_hidden_state[:, 0])


@pytest.mark.parametrize(
    ("lines", "why"), [("a\nb\n", "lists 2 classes, the model's head has 3"), ("a\nb\na\n", "a stands there twice")]
)
def test_classes_that_are_not_the_heads_rows_are_refused(lines: str, why: str, tmp_path: Path) -> None:
    saved(tmp_path, "Dinov2ForImageClassification", transformers.Dinov2Config(**VISION, num_labels=3))
    listed = tmp_path / "classes.tsv"
    listed.write_text(lines)
    with pytest.raises(UserError, match=why):
        HuggingFaceModel(checkpoint=str(tmp_path), classes=str(listed)).build(**CPU)
    listed.write_text("\ufeffa\nb\nc\n", encoding="utf-8")  # as tools on Windows write it
    assert HuggingFaceModel(checkpoint=str(tmp_path), classes=str(listed)).build(**CPU).class_ids == ["a", "b", "c"]
