"""Cases of an eleventh pair of eyes, what of them failed: heads and pooling under other names, DINOv2's own files, other libraries'
names of networks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from fna.data.base import Labelled
from fna.errors import UserError
from fna.models.base import Model
from fna.models.timm import TimmModel
from fna.models.timm_names import check_name, elsewhere
from fna.models.weights import misfit
from fna.tasks.classification import Classification

# 4 and 16: checkpoints

NAME = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"depth": 4, "embed_dim": 16, "num_heads": 2}
CPU: dict[str, Any] = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}
HEAD = {"head.weight": torch.randn(5, 16), "head.bias": torch.randn(5)}
MLP = {"0.weight": torch.randn(8, 16), "0.bias": torch.randn(8), "2.weight": torch.randn(5, 8), "2.bias": torch.randn(5)}


def body(**settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(timm.create_model(NAME, **SMALL, num_classes=0, **settings).state_dict())


def source(saved: Mapping[str, Any], folder: Path, safe: bool = False, **settings: Any) -> TimmModel:
    """A small network, said so in config.json, with what ``saved`` holds."""
    (folder / "config.json").write_text(json.dumps({"architecture": NAME, "model_args": SMALL}))
    if safe:
        save_file(dict(saved), folder / "model.safetensors")
    else:
        torch.save(saved, folder / "pytorch_model.bin")
    return TimmModel(NAME, checkpoint=str(folder), **settings)


def logits(model: Model) -> Tensor:
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert model.classify is not None
    return model.classify(images)


def stock(state: Mapping[str, Tensor], **settings: Any) -> Tensor:
    net = timm.create_model(NAME, **SMALL, num_classes=5, **settings).eval()
    net.load_state_dict(dict(state))
    with torch.no_grad():
        return net(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", ["head.1", "head.0", "head.fc", "head.linear", "fc", "classifier", "classifier.1", "heads.head"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_linear_head_under_another_name_is_the_head(name: str, safe: bool, tmp_path: Path) -> None:
    """A dropout before the classifier makes it head.1; the note says which tensors were taken."""
    renamed = {key.replace("head", name): tensor for key, tensor in HEAD.items()}
    found = source({**body(), **renamed}, tmp_path, safe)
    assert found.abilities is None or "classify" in found.abilities
    model = found.build(**CPU)
    torch.testing.assert_close(logits(model), stock({**body(), **HEAD}))
    (note,) = (note for note in model.notes if "took" in note)
    assert f"took {name}.weight and {name}.bias as head.weight and head.bias" in note
    assert not any("left out" in note for note in model.notes)


@pytest.mark.parametrize("container", ["", "state_dict.", "model."])
def test_a_linear_head_beside_the_network_is_its_head(container: str, tmp_path: Path) -> None:
    """A module of one's own: self.backbone = timm..., self.fc = nn.Linear(...)."""
    saved: dict[str, Any] = {f"backbone.{key}": tensor for key, tensor in body().items()}
    saved |= {f"fc.{key.partition('.')[2]}": tensor for key, tensor in HEAD.items()}
    inside = {container.rstrip("."): saved, "epoch": 3} if container else saved
    model = source(inside, tmp_path).build(**CPU)
    torch.testing.assert_close(logits(model), stock({**body(), **HEAD}))
    (note,) = (note for note in model.notes if "took" in note)
    assert f"took {container}fc.weight and {container}fc.bias" in note
    assert "not used" not in note


def test_the_head_of_another_network_in_the_file_is_not_taken(tmp_path: Path) -> None:
    teacher = {f"teacher.backbone.{key}": tensor for key, tensor in body().items()}
    model = source({**teacher, **{f"student.{key}": tensor for key, tensor in HEAD.items()}}, tmp_path).build(**CPU)
    assert model.classify is None


@pytest.mark.parametrize("word", ["head", "classifier", "fc"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_head_of_several_layers_is_named_as_one(word: str, safe: bool, tmp_path: Path) -> None:
    """It is refused where a head was asked for, left out with a note that is true where not, and named by who needs a head."""
    saved = {**body(), **{f"{word}.{key}": tensor for key, tensor in MLP.items()}}
    found = source(saved, tmp_path, safe)
    said = re.escape(f"its head of several layers ({word}.0, {word}.2; 4 tensors) was left out")
    assert found.abilities is None or "classify" not in found.abilities
    model = found.build(**CPU)
    assert model.classify is None
    assert any(re.search(rf"{said}$", note) for note in model.notes)
    dataset: Any = SimpleNamespace(name="d", classes=["a", "b"], examples=[Labelled("x", Path("x"), 0)])
    with pytest.raises(UserError, match=rf"neither a classification head nor a text tower \(.*{said}\): choose"):
        Classification().check(model, dataset)
    asked = source(saved, tmp_path, safe, num_classes=5)
    with pytest.raises(UserError, match=r"its head is of several layers .*, all else fits: give model\.num_classes=0"):
        asked.build(**CPU)


def test_a_head_of_another_width_is_not_taken(tmp_path: Path) -> None:
    model = source({**body(), "head.1.weight": torch.zeros(5, 7), "head.1.bias": torch.zeros(5)}, tmp_path).build(**CPU)
    assert model.classify is None
    assert any("its head of another kind (head.1; 2 tensors) was left out" in note for note in model.notes)


def test_a_network_that_normalises_after_pooling_is_averaged(tmp_path: Path) -> None:
    """timm has fc_norm in the place of norm where it averages; the tensors say so, and the weights line says it."""
    state = {**body(global_pool="avg"), **HEAD}
    model = source({"model": state}, tmp_path).build(**CPU)
    torch.testing.assert_close(logits(model), stock(state, global_pool="avg"))
    assert "pool avg" in model.weights_line
    assert any("as fc_norm" in note and "run with global_pool=avg" in note for note in model.notes)
    other = source(state, tmp_path, pool="max").build(**CPU)
    torch.testing.assert_close(logits(other), stock(state, global_pool="max"))
    assert other.identity != model.identity


def test_a_network_that_pools_by_attention_is_run_so(tmp_path: Path) -> None:
    state = {**body(global_pool="map"), **HEAD}
    model = source(state, tmp_path).build(**CPU)
    torch.testing.assert_close(logits(model), stock(state, global_pool="map"))
    assert any("run with global_pool=map" in note for note in model.notes)


def test_pooling_that_tensors_do_not_show_is_said_and_can_be_said(tmp_path: Path) -> None:
    """global_pool=avg, fc_norm=False has the tensors of a network that takes the class token."""
    state = {**body(global_pool="avg", fc_norm=False), **HEAD}
    silent = source(state, tmp_path).build(**CPU)
    assert any("pool token" in note and "model.pool=avg" in note for note in silent.notes)
    told = source(state, tmp_path, pool="avg").build(**CPU)
    torch.testing.assert_close(logits(told), stock(state, global_pool="avg", fc_norm=False))
    assert told.identity != silent.identity
    assert any("pool avg" in note and "model.pool=token" in note for note in told.notes)
    with pytest.raises(UserError, match=r"model\.pool: \w+ is none of|model\.pool=mean"):
        source(state, tmp_path, pool="mean").check()


def test_pooling_is_asked_for_where_the_name_has_another_than_the_file(tmp_path: Path) -> None:
    """The file normalises before pooling, timm's network of that name after it: both ways of pooling are possible."""
    state = dict(timm.create_model(NAME, num_classes=0).state_dict())
    config = {"architecture": NAME, "model_args": {"depth": 12, "fc_norm": True}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors")
    model = TimmModel(NAME, checkpoint=str(tmp_path))
    with pytest.raises(UserError, match=r"say how it pools with model\.pool=token or model\.pool=avg"):
        model.build(**CPU)


def test_random_weights_pool_as_asked() -> None:
    model = TimmModel(NAME, random=True, num_classes=5, pool="avg").build(**CPU)
    assert model.tower.global_pool == "avg"
    with pytest.raises(UserError, match=r"model\.pool=token: timm does not build .*; give null"):
        TimmModel("vit_medium_patch16_gap_240", random=True, pool="token").build(**CPU)


@pytest.mark.parametrize(("own", "asked", "said"), [("token", "map", "have no attn_pool"), ("map", "avg", "pool by attention")])
def test_a_pooling_that_the_weights_have_not_is_refused(own: str, asked: Any, said: str, tmp_path: Path) -> None:
    """No other network is proposed, which would not have it either."""
    with pytest.raises(UserError, match=rf"model\.pool={asked}: the weights {said}"):
        source({**body(global_pool=own), **HEAD}, tmp_path, pool=asked).build(**CPU)


# DINOv2's own training


def chunked(state: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """blocks.N.* as blocks.CHUNK.N.*, as DINOv2's training saves them."""
    return {
        re.sub(r"^blocks\.(\d+)", lambda found: f"blocks.{int(found[1]) // size}.{found[1]}", key): t for key, t in state.items()
    }


@pytest.mark.parametrize("size", [1, 2, 4])
def test_blocks_in_chunks_are_read_by_their_numbers(size: int, tmp_path: Path) -> None:
    """In the file of DINOv2's teacher, whose heads of training are left out with a note."""
    teacher = {f"backbone.{key}": tensor for key, tensor in chunked(body(), size).items()}
    teacher |= {f"{head}.mlp.0.weight": torch.zeros(3, 16) for head in ("dino_head", "ibot_head")}
    model = source({"teacher": teacher}, tmp_path).build(**CPU)
    for key, tensor in body().items():
        torch.testing.assert_close(model.tower.state_dict()[key], tensor)
    (note,) = (note for note in model.notes if "besides it holds" in note)
    assert "teacher.dino_head (1 tensor, not used)" in note
    assert model.classify is None


def test_patches_of_another_size_are_not_resampled_on_the_quiet(tmp_path: Path) -> None:
    """timm's own reading of DINOv2's files does so; here the network that has such patches is named."""
    state = timm.create_model("vit_small_patch14_dinov2", depth=1, img_size=224).state_dict()
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight is \[384, 3, 14, 14\], expected \[384, 3, 16, 16\]"):
        TimmModel("vit_small_patch16_224", checkpoint=str(tmp_path / "w.pt")).build(**CPU)


def test_a_file_of_other_names_shows_one() -> None:
    expected = {f"blocks.{n}.weight": torch.zeros(1) for n in range(4)}
    got = {f"layers.{n}.weight": torch.zeros(1) for n in range(4)}
    said = misfit(expected, got)
    assert said == "4 of 4 tensors are missing (first: blocks.0.weight), and layers.0.weight of the file has no place there"
    few = misfit({**expected, "x": torch.zeros(1)}, {**expected, "y": torch.zeros(1)})
    assert few == "1 of 5 tensors are missing (first: x)"


# 17: names that other libraries give


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("dinov2_vits14", "vit_small_patch14_dinov2.lvd142m"),
        ("dinov2_vitl14_reg", "vit_large_patch14_reg4_dinov2.lvd142m"),
        ("facebook/dinov2-small", "vit_small_patch14_dinov2.lvd142m"),
        ("facebook/dinov2-with-registers-base", "vit_base_patch14_reg4_dinov2.lvd142m"),
        ("facebook/dinov3-vits16-pretrain-lvd1689m", "vit_small_patch16_dinov3.lvd1689m"),
        ("dino_vits8", "vit_small_patch8_224.dino"),
        ("facebook/vit-mae-base", "vit_base_patch16_224.mae"),
        ("google/vit-base-patch16-224", "vit_base_patch16_224"),
        ("openai/clip-vit-large-patch14", "vit_large_patch14_clip_224.openai"),
        ("google/siglip-base-patch16-224", "vit_base_patch16_siglip_224.webli"),
        ("facebook/deit-tiny-distilled-patch16-224", "deit_tiny_distilled_patch16_224"),
        ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        ("vit_b_16", "vit_base_patch16_224"),
        ("ViT-B/16", "vit_base_patch16_224"),
    ],
)
def test_a_network_as_another_library_calls_it_is_told_by_timms_name(name: str, own: str) -> None:
    assert elsewhere(name) == own
    with pytest.raises(UserError, match=rf"did you mean {re.escape(own)}\?") as refused:
        check_name(name)
    hub = name.startswith(("facebook/", "google/", "openai/"))
    assert ("model=hf model.checkpoint=FOLDER" in str(refused.value)) == hub
    check_name(own)


@pytest.mark.parametrize("name", ["resnet50x", "gpt2", "bert-base-uncased", "vit"])
def test_what_no_vision_transformer_of_timms_is_gets_no_name(name: str) -> None:
    assert elsewhere(name) is None
