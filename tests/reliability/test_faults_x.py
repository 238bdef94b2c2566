"""Links that lead nowhere, weights that DeepSpeed left elsewhere, one image a class to learn from, and Meta's files of DINOv3."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from fna.data.bank import LabelledDataset
from fna.data.base import Dataset, Labelled
from fna.errors import UserError
from fna.models.timm import TimmModel
from fna.records import write_atomic, write_record
from fna.runner.files import checked_folder
from fna.tasks.base import Outcome
from fna.tasks.learnt import Probe, _held_out, unit

DINOV3 = "vit_small_patch16_dinov3"


def test_a_link_that_leads_nowhere_is_named_with_what_is_missing(tmp_path: Path) -> None:
    """ "A file is there, no folder" was false: there is neither."""
    (tmp_path / "outputs").symlink_to(tmp_path / "purged" / "outputs")
    told = re.escape(f"({tmp_path}/outputs is a link to {tmp_path}/purged/outputs, which is not there); mend that")
    with pytest.raises(UserError, match=told):
        checked_folder(tmp_path / "outputs" / "runs")
    with pytest.raises(UserError, match=told):
        write_record(tmp_path / "outputs" / "record.json", {"a": 1})
    with pytest.raises(UserError, match=told):
        checked_folder(tmp_path / "outputs")


def test_a_file_in_the_way_is_still_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("")
    with pytest.raises(UserError, match="a file is there, no folder"):
        checked_folder(tmp_path / "outputs")
    (tmp_path / "away").symlink_to(tmp_path / "nowhere")
    write_atomic(tmp_path / "away", b"x")  # the file itself may be such a link: it is replaced
    assert (tmp_path / "away").read_bytes() == b"x"


def built(name: str, file: Path) -> Any:
    return TimmModel(name, checkpoint=str(file)).build(image_size=None, device="cpu", dtype="float32", seed=0).tower


def test_what_zero_3_leaves_of_weights_is_told_with_what_gathers_them(tmp_path: Path) -> None:
    """Its file of the model holds places of shape [0] alone; small tensors may be whole in it."""
    state = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=2).state_dict()
    left = {name: tensor if name == "norm.bias" else torch.empty(0) for name, tensor in state.items()}
    torch.save({"module": left, "ds_version": "0.16", "dp_world_size": 8}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match=r"31 of its 32 tensors are empty \(first: cls_token\).*zero_pp_rank_\*.*zero_to_fp32\.py"):
        built("vit_tiny_patch16_224", tmp_path / "mp_rank_00_model_states.pt")


def notes(task: Probe, classes: int, images: int) -> list[str]:
    """What is noted of a probe that learns from so many images of each class."""
    names = [f"a{number}" for number in range(classes)]
    learnt = [Labelled(f"{label}-{number}", Path("image.png"), label) for label in range(classes) for number in range(images)]
    data = LabelledDataset("made", "val", "generated", "d", learnt[:1], names)
    data.training = lambda: Dataset("made", "bank", "generated", "d", learnt, names)
    none = np.zeros(0)
    return task.notes(Outcome([], {}, none, none, [], []), data)


def test_with_one_image_a_class_the_rate_is_the_middle_one() -> None:
    """No image that is held out could be right then: of rates that are all 0 % right the first was taken, which learns nothing."""
    points = unit(np.eye(8, 16) + 0.01)
    scores = Probe(epochs=100, batch=8).fit(points, np.arange(8), 8, 0)(points)
    sure = np.exp(scores.max(1)) / np.exp(scores).sum(1)
    assert (scores.argmax(1) == np.arange(8)).all()
    assert sure.min() > 0.9
    middle = Probe(epochs=100, batch=8, rates=[0.1]).fit(points, np.arange(8), 8, 0)(points)
    assert np.array_equal(scores, middle)


def test_only_images_whose_class_keeps_another_are_held_out() -> None:
    """Sixteen classes of one image, one of many: the rate is chosen by those of the one."""
    labels = np.array([*range(16), *[16] * 8])
    assert np.flatnonzero(_held_out(labels)).tolist() == [19, 23]
    assert np.flatnonzero(_held_out(np.tile([0, 1, 2], 4))).tolist() == [3, 7, 11]
    assert not _held_out(np.arange(12)).any()


def test_a_rate_that_nothing_chose_is_noted() -> None:
    """Not so where held-out images chose it, nor where one alone was given."""
    chosen_by_none = "no rate could be chosen, trained with the middle one of task.rates, 0.1;"
    assert any(chosen_by_none in note for note in notes(Probe(), classes=12, images=1))
    assert not any("no rate" in note for note in notes(Probe(), classes=12, images=4))
    assert not any("no rate" in note for note in notes(Probe(rates=[1.0]), classes=12, images=1))


def as_meta_has_it(state: dict[str, Tensor], bias: float) -> dict[str, Tensor]:
    """timm's tensors of a DINOv3 under the names of Meta's own file, which has biases and their masks in each block."""
    new = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    made = {}
    for name, tensor in state.items():
        above, _, last = name.rpartition(".")
        made[f"{above}.{new.get(last, last)}" if above else new.get(last, last)] = tensor
    for name, tensor in state.items():
        if name.endswith("qkv.weight"):
            rows = tensor.shape[0]
            made[name.replace("weight", "bias")] = torch.full((rows,), bias)
            made[name.replace("weight", "bias_mask")] = torch.ones(rows)
    width = state["cls_token"].shape[-1]
    return made | {"mask_token": torch.zeros(1, width), "rope_embed.periods": torch.rand(16)}


def test_metas_own_file_of_a_dinov3_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the converter of timm's module for these networks; what that prints of itself is nobody's concern."""
    state = timm.create_model(DINOV3, num_classes=0).state_dict()
    torch.save(as_meta_has_it(state, bias=0.0), tmp_path / "dinov3_vits16_pretrain.pth")
    read = built(DINOV3, tmp_path / "dinov3_vits16_pretrain.pth").state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert capsys.readouterr().out == ""


def test_biases_of_a_dinov3_are_not_left_out_without_a_word(tmp_path: Path) -> None:
    """timm's converter takes them for zeros where the network has no place for them; its other network of that size has one."""
    state = timm.create_model(DINOV3, num_classes=0).state_dict()
    torch.save(as_meta_has_it(state, bias=0.5), tmp_path / "own.pth")
    with pytest.raises(UserError, match=f"queries and values have biases: give model.name={DINOV3}_qkvb"):
        built(DINOV3, tmp_path / "own.pth")
    read = built(f"{DINOV3}_qkvb", tmp_path / "own.pth")
    assert torch.equal(read.blocks[0].attn.q_bias, torch.full_like(read.blocks[0].attn.q_bias, 0.5))


def test_a_folder_of_transformers_with_names_of_its_own_is_told_who_runs_it(tmp_path: Path) -> None:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_register_tokens": 4,
    }
    DINOv3ViTModel(DINOv3ViTConfig(**sizes | {"hidden_size": 384})).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=rf"dinov3_vit of transformers': model=hf model\.checkpoint={re.escape(str(tmp_path))} runs it"
    ):
        built(DINOV3, tmp_path)
