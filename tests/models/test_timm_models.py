"""timm models: the real ViT-Ti, wrong checkpoints, sizes, facts and random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fna.errors import UserError
from fna.models.open_clip import OpenClipModel
from fna.models.timm import TimmModel

CPU: Any = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}
SMALL = TimmModel(name="vit_tiny_patch16_224", random=True, num_classes=5, depth=12, patch_size=16)


@pytest.fixture(scope="module")
def tiny() -> TimmModel:
    root = Path(__file__).resolve().parents[3] / "shared" / "data" / "vit_tiny_tinyimagenet"
    if not root.is_dir():
        pytest.skip("the shared ViT-Ti is not on this machine")
    return TimmModel(
        name="vit_tiny_patch16_224",
        checkpoint=str(root / "model.safetensors"),
        num_classes=200,
        classes=str(root / "classes.tsv"),
        norm_eps=1e-12,
        depth=12,
        patch_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop_pct=0.875,
    )


def test_the_real_model(tiny: TimmModel) -> None:
    model = tiny.build(**CPU)
    assert (model.token_count, model.depth, model.tokens.prefix, model.tokens.grid) == (197, 12, 1, (14, 14))
    assert model.class_ids is not None
    assert len(model.class_ids) == 200
    assert model.class_ids[0] == "n01443537"
    assert {norm.eps for norm in model.tower.modules() if isinstance(norm, torch.nn.LayerNorm)} == {1e-12}
    assert model.weights.domain == "photographs"
    assert len(model.weights.digest) == 64
    assert model.transform(Image.new("RGB", (300, 250), (255, 0, 128))).shape == (3, 224, 224)
    assert model.transform(Image.new("RGB", (64, 64), (255, 0, 0)))[:2, 0, 0].tolist() == [1.0, -1.0]
    assert model.classify is not None
    assert model.patches is not None
    assert model.encode_image is not None
    with torch.inference_mode():
        images = torch.zeros(2, 3, 224, 224)
        assert model.classify(images).shape == (2, 200)
        assert model.patches(images).shape == (2, 196, 192)
        assert model.encode_image(images).shape == (2, 192)


def test_shorter_side_is_resized_as_the_readme_of_the_data_says(tiny: TimmModel) -> None:
    model = tiny.build(**{**CPU, "image_size": 512})
    resize = model.transform.transforms[0]  # type: ignore[attr-defined]
    assert (resize.size, str(resize.interpolation.value)) == (512 * 256 // 224, "bicubic")
    assert (model.token_count, model.image_size) == (1025, (512, 512))


def test_image_sizes(tmp_path: Path) -> None:
    assert SMALL.build(**{**CPU, "image_size": (64, 96)}).tokens.grid == (4, 6)
    for size in (7, 100):
        with pytest.raises(UserError, match="multiples of 16"):
            SMALL.build(**{**CPU, "image_size": size})


def test_the_digest_does_not_depend_on_the_size_or_the_place(tiny: TimmModel, tmp_path: Path) -> None:
    state = load_file(str(tiny.checkpoint))
    torch.save({"model": state}, tmp_path / "copy.pth")
    copied = replace(tiny, checkpoint=str(tmp_path / "copy.pth"))
    assert copied.build(**{**CPU, "image_size": 64}).weights.digest == tiny.build(**CPU).weights.digest


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    model = replace(SMALL, random=False, checkpoint=str(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match=r"w\.safetensors: no such checkpoint"):
        model.check()
    state = {name: tensor.clone() for name, tensor in SMALL.build(**CPU).tower.state_dict().items()}
    save_file({**state, "head.weight": torch.zeros(7, 192)}, tmp_path / "w.safetensors")
    with pytest.raises(
        UserError, match=r"w\.safetensors: does not fit .* with 5 classes: head\.weight is \[7, 192\], expected \[5, 192\]"
    ):
        model.build(**CPU)
    save_file({name: tensor for name, tensor in state.items() if "norm" not in name}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"50 of 152 tensors are missing"):
        model.build(**CPU)
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"w\.safetensors: cannot be read"):
        model.build(**CPU)


def test_the_encoder_of_a_masked_pretraining_is_taken_without_its_decoder(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in replace(SMALL, num_classes=0).build(**CPU).tower.state_dict().items()}
    decoder = {"decoder_blocks.0.attn.qkv.weight": torch.zeros(4, 4), "decoder_pos_embed": torch.zeros(1, 197, 4)}
    torch.save({"model": {**state, **decoder, "mask_token": torch.zeros(1, 1, 4)}}, tmp_path / "mae.pth")
    model = replace(SMALL, random=False, num_classes=None, checkpoint=str(tmp_path / "mae.pth")).build(**CPU)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.tower.state_dict().items())
    assert any("its decoder, which masked pre-training leaves, was left out (2 tensors)" in note for note in model.notes)


def test_tensors_that_lack_an_axis_of_one_are_taken(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in SMALL.build(**CPU).tower.state_dict().items()}
    bare = {**state, "pos_embed": state["pos_embed"][0], "cls_token": state["cls_token"].flatten()}
    save_file({name: tensor.clone() for name, tensor in bare.items()}, tmp_path / "w.safetensors")
    model = replace(SMALL, random=False, checkpoint=str(tmp_path / "w.safetensors")).build(**CPU)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.tower.state_dict().items())


def test_random_weights_must_be_asked_for_and_follow_the_seed() -> None:
    with pytest.raises(UserError, match=r"model\.random=true"):
        replace(SMALL, random=False).check()
    first, again, other = (SMALL.build(**{**CPU, "seed": seed}).weights for seed in (0, 0, 1))
    assert first == again
    assert first.digest != other.digest
    assert (first.source, first.domain) == ("random (seed 0)", "none")


def test_wrong_facts_and_unknown_names() -> None:
    with pytest.raises(UserError, match=r"model\.depth=24: .* has 12"):
        replace(SMALL, depth=24).build(**CPU)
    with pytest.raises(UserError, match="timm has no such model"):
        replace(SMALL, name="vit_gigantic").build(**CPU)
    with pytest.raises(UserError, match=r"deit_tinny_patch16_224: .*did you mean deit_tiny_patch16_224\?"):
        replace(SMALL, name="deit_tinny_patch16_224").build(**CPU)
    with pytest.raises(UserError, match="not a plain vision transformer"):
        TimmModel(name="resnet18", random=True).build(**CPU)


def test_without_a_network_the_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fna.models.weights._hub_answers", lambda endpoint: False)
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    with pytest.raises(UserError, match=r"timm vit_small_patch16_224\.dino: .*model\.checkpoint=PATH"):
        TimmModel(name="vit_small_patch16_224.dino", pretrained=True).build(**CPU)


def test_imagenet_heads_know_their_classes() -> None:
    model = TimmModel(name="vit_tiny_patch16_224", random=True).build(**CPU)
    assert model.class_ids is not None
    assert (len(model.class_ids), model.class_ids[1]) == (1000, "n01443537")
    assert model.classes is not None
    assert "goldfish" in model.classes[1]


def test_half_precision_and_registers() -> None:
    source = TimmModel(name="vit_small_patch14_reg4_dinov2.lvd142m", random=True)
    model = source.build(**{**CPU, "dtype": "bfloat16", "image_size": 28})
    assert (model.tokens.prefix, model.tokens.grid, model.classify, model.dtype) == (5, (2, 2), None, torch.bfloat16)
    with torch.inference_mode():
        assert model.patches is not None
        assert model.patches(torch.zeros(1, 3, 28, 28, dtype=torch.bfloat16)).shape == (1, 4, 384)


def test_a_checkpoint_of_another_size_runs_at_that_size_when_asked(tmp_path: Path) -> None:
    own = timm.create_model("vit_tiny_patch16_224", img_size=160, num_classes=5).eval()
    torch.save({"state_dict": own.state_dict()}, tmp_path / "w.pt")
    source = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path / "w.pt"))
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    model = source.build(**{**CPU, "image_size": 160})
    with torch.inference_mode():
        assert model.classify is not None
        assert torch.allclose(model.classify(images), own(images), atol=1e-5)
    assert not any("resampled" in note for note in model.notes)
    with pytest.raises(
        UserError, match=r"for images of 160x160 px \(10x10 patches\), the model's for 224x224; give image_size=160"
    ):
        source.build(**CPU)
    other = source.build(**{**CPU, "image_size": (64, 96)})
    assert any("resampled from 10x10 to 4x6" in note for note in other.notes)


def test_the_number_of_classes_is_that_of_the_files_head(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in SMALL.build(**CPU).tower.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    source = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path / "w.safetensors"))
    assert source.abilities == {"encode_image", "patches", "classify"}
    assert source.build(**CPU).tower.num_classes == 5
    headless = replace(source, num_classes=0).build(**CPU)
    assert headless.classify is None
    assert any("head of 5 classes was left out" in note for note in headless.notes)
    save_file({name: tensor for name, tensor in state.items() if "head" not in name}, tmp_path / "w.safetensors")
    assert source.abilities == {"encode_image", "patches"}
    assert source.build(**CPU).classify is None


def test_how_a_file_is_run_is_said_unless_it_was_told(tmp_path: Path) -> None:
    save_file(SMALL.build(**CPU).tower.state_dict(), tmp_path / "w.safetensors")
    source = replace(SMALL, random=False, checkpoint=str(tmp_path / "w.safetensors"))
    model = source.build(**CPU)
    assert any("GELU, mean 0.5 0.5 0.5" in note and "model.mean=[...]" in note for note in model.notes)
    assert "run with GELU, mean 0.5 0.5 0.5" in model.weights_line
    told = replace(source, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop_pct=1.0).build(**CPU)
    assert told.notes == []
    assert told.identity != model.identity
    assert SMALL.build(**CPU).notes == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (7, r"its head is of 7 classes, all else fits: give model\.num_classes=7\."),
        (0, r"it has no head of classes, .*num_classes=0 model\.classes=null\."),
    ],
)
def test_a_file_that_differs_in_its_head_alone_is_not_taken_for_another_model(rows: int, said: str, tmp_path: Path) -> None:
    state = timm.create_model("vit_tiny_patch16_224", num_classes=rows).state_dict()
    torch.save(state, tmp_path / "w.pt")
    model = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path / "w.pt"), num_classes=5)
    with pytest.raises(UserError, match=said):
        model.build(**CPU)
    assert replace(model, num_classes=rows).build(**CPU).tower.num_classes == rows


def test_a_file_of_another_model_names_it(tmp_path: Path) -> None:
    for name, size in (("vit_small_patch16_224", 384), ("vit_tiny_patch16_224", 192)):
        torch.save(timm.create_model(name, num_classes=0).state_dict(), tmp_path / f"{size}.pt")
    with pytest.raises(UserError, match=r"looks like vit_small_patch16_224: give model\.name=vit_small_patch16_224"):
        TimmModel("vit_base_patch16_224", checkpoint=str(tmp_path / "384.pt")).build(**CPU)
    with pytest.raises(UserError, match=r"looks like vit_tiny_patch16_224"):
        TimmModel("vit_small_patch16_384", checkpoint=str(tmp_path / "192.pt")).build(**CPU)


def test_averaged_weights_are_named_and_taken_when_asked(tmp_path: Path) -> None:
    plain, averaged = (replace(SMALL).build(**{**CPU, "seed": seed}).tower.state_dict() for seed in (0, 1))
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, tmp_path / "c.pth.tar")
    source = replace(SMALL, random=False, checkpoint=str(tmp_path / "c.pth.tar"))
    first, second = (replace(source, part=part).build(**CPU) for part in (None, "state_dict_ema"))
    assert any("model.part=state_dict_ema" in note for note in first.notes)
    assert first.weights.digest != second.weights.digest
    with pytest.raises(UserError, match=r"model\.part=swa.*it has state_dict, state_dict_ema"):
        replace(source, part="swa").build(**CPU)
    with pytest.raises(UserError, match=r"model\.part=ema: chooses among the parts of a file"):
        replace(SMALL, part="ema").check()


@pytest.mark.parametrize("offline", [False, True])
def test_a_name_on_the_hub_without_a_network(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fna.models.weights._hub_answers", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    reason = "HF_HUB_OFFLINE forbids" if offline else "the hub cannot be reached"
    for source in (
        TimmModel("hf-hub:nobody/nothing", pretrained=True),
        OpenClipModel("hf-hub:nobody/nothing", pretrained="openai"),
    ):
        with pytest.raises(UserError, match=rf"model\.name=hf-hub:nobody/nothing: .*{reason}.*model\.checkpoint=PATH"):
            source.check()
    with pytest.raises(UserError, match="no name on the hub"):
        TimmModel("hf-hub:a b/c/d", pretrained=True).check()


def test_weights_without_positions_or_with_registers_are_not_said_to_be_another_size(tmp_path: Path) -> None:
    source = replace(SMALL, random=False, num_classes=None, checkpoint=str(tmp_path / "c.safetensors"))
    bare = {key: tensor for key, tensor in timm.create_model(SMALL.name).state_dict().items() if key != "pos_embed"}
    save_file(bare, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match=r"1 of 152 tensors are missing \(first: pos_embed\); made with other") as refused:
        source.build(**CPU)
    assert "image_size" not in str(refused.value)
    save_file(timm.create_model(SMALL.name, reg_tokens=4).state_dict(), tmp_path / "c.safetensors")
    assert source.build(**CPU).tokens.prefix == 5
