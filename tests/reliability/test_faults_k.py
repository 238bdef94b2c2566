"""Cases of a ninth pair of eyes, what of them failed of checkpoints: what averaging leaves beside weights, remedies that fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fna.errors import UserError
from fna.models.checkpoints import unpack
from fna.models.timm import TimmModel
from fna.models.timm_files import looks_like

# 16: checkpoints

NAMES = ("blocks.0.weight", "blocks.0.bias", "head.weight", "head.bias")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])
        self.head = nn.Linear(2, 3)


def state(value: float = 0) -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in Net().state_dict().items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def averaged(value: float, *, parallel: bool = False) -> dict[str, Tensor]:
    """As torch's own averaging saves it, of a network in DistributedDataParallel if ``parallel``."""
    net = Net()
    net.load_state_dict(state(value))
    wrapped = nn.Module()
    wrapped.module = net
    return AveragedModel(wrapped if parallel else net).state_dict()


ONE, MANY = torch.tensor(1), torch.tensor(100)
SAVED: dict[str, dict[str, Any]] = {
    "torch's AveragedModel": averaged(1),
    "of DistributedDataParallel": averaged(1, parallel=True),
    "in a container": {"epoch": 3, "model_ema": averaged(1)},
    "in two": {"checkpoint": {"swa": averaged(1), "optimizer": {"state": {}}}},
    "MMEngine": {"meta": {}, "ema_state_dict": {**under("module.", state(1)), "steps": ONE}},
    "ema-pytorch": {**under("ema_model.", state(1)), "initted": torch.tensor([True]), "step": torch.tensor([9])},
    "counters among names": {**state(1), "num_updates": MANY, "decay": torch.tensor(0.99)},
    "the best accuracy, as in torch's examples": {"state_dict": under("module.", state(1)), "best_acc1": torch.tensor(76.1)},
    "a scheduler with tensors": {"model": {**state(1), "lr_scheduler": {"last": ONE}}, "opt": {"state": {0: MANY}}},
}


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED.keys())
def test_what_training_keeps_beside_weights_is_no_part_of_them_wherever_it_lies(saved: dict[str, Any]) -> None:
    found = unpack(saved, NAMES, "c.pt")
    assert found.state.keys() == {*NAMES}
    assert all(tensor.eq(1).all() for tensor in found.state.values())
    assert found.note("c.pt") == ""


@pytest.mark.parametrize(
    ("saved", "taken", "other"),
    [
        ({"model": under("module.", state(0)), "swa": averaged(1)}, "model", "swa"),
        ({"state_dict": {**under("net.", state(0)), **under("ema.", averaged(1))}}, "state_dict.net", "state_dict.ema"),
        ({**state(0), "swa": averaged(1)}, "", "swa"),
        ({"state_dict": {**state(0), "ema": averaged(1)}}, "state_dict", "state_dict.ema"),
        ({**under("online_model.", state(0)), **under("ema_model.", state(1)), "initted": ONE}, "online_model", "ema_model"),
        ({**under("module.encoder_k.", state(1)), **under("module.encoder_q.", state(0))}, "encoder_q", "encoder_k"),
    ],
)
def test_the_part_that_a_note_proposes_can_be_taken(saved: dict[str, Any], taken: str, other: str) -> None:
    found = unpack(saved, NAMES, "c.pt")
    assert (found.part, found.others) == (taken, (other,))
    assert f"model.part={other} takes them" in found.note("c.pt")
    assert found.state.keys() == {*NAMES}
    again = unpack(saved, NAMES, "c.pt", part=other)
    assert again.state.keys() == {*NAMES}
    assert all(tensor.eq(1).all() for tensor in again.state.values())
    assert "model.part= " not in again.note("c.pt")


@pytest.mark.parametrize(
    "teacher",
    [{name: tensor for name, tensor in state(1).items() if name != "head.bias"}, {**state(1), "head.weight": torch.ones(9, 2)}],
)
def test_a_part_that_would_not_fit_is_not_proposed(teacher: dict[str, Tensor]) -> None:
    wide = {f"blocks.{number}.weight": torch.zeros(2) for number in range(1, 20)}
    names = (*NAMES, *wide)
    found = unpack({"model": {**state(0), **wide}, "ema": {**teacher, **wide}}, names, "c.pt")
    assert found.part == "model"
    assert found.note("c.pt").endswith(f"besides it holds ema ({len(teacher) + len(wide)} tensors, not used)")


def test_a_loss_with_weights_of_its_own_is_left_out_and_said() -> None:
    found = unpack({"state_dict": {**state(1), "criterion.weight": torch.ones(3)}}, NAMES, "c.ckpt")
    assert found.state.keys() == {*NAMES}
    assert "besides it holds criterion (1 tensor, not used)" in found.note("c.ckpt")


def test_what_a_network_expects_is_taken_whatever_it_is_called() -> None:
    saved = {"step": torch.ones(1), "loss.weight": torch.ones(2), "rest.weight": torch.ones(2)}
    assert unpack(saved, saved, "c.pt").state.keys() == saved.keys()


CPU: dict[str, Any] = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The file of a network of timm's with 5 classes."""
    folder = tmp_path_factory.mktemp("timm")

    def file(name: str) -> str:
        path = folder / f"{name}.pt"
        if not path.exists():
            torch.save(timm.create_model(name, num_classes=5).state_dict(), path)
        return str(path)

    return file


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ("deit3_small_patch16_224", "vit_small_patch16_224"),
        ("deit3_small_patch16_224", "deit_small_patch16_224"),
        ("deit3_small_patch16_384", "vit_small_patch16_224"),
        ("vit_small_patch16_224", "deit3_small_patch16_224"),
        ("deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224"),
    ],
)
def test_a_file_whose_position_table_is_no_square_for_the_network_names_the_one_that_it_is_of(
    made: str, asked: str, saved: Callable[[str], str]
) -> None:
    source = TimmModel(asked, checkpoint=saved(made), num_classes=5)
    with pytest.raises(UserError, match=rf"this looks like {made}: give model\.name={made}\.$") as refused:
        source.build(**CPU)
    assert "image_size" not in str(refused.value)
    assert replace(source, name=made).build(**CPU).name == made


@pytest.mark.parametrize("size", [None, 384])
def test_a_size_is_not_asked_for_where_none_would_help(size: int | None, tmp_path: Path) -> None:
    """Without the rows of its two tokens, of a network that is otherwise the one asked for."""
    state = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5).state_dict()
    torch.save({**state, "pos_embed": state["pos_embed"][:, 2:].clone()}, tmp_path / "w.pt")
    source = TimmModel("deit_tiny_distilled_patch16_224", checkpoint=str(tmp_path / "w.pt"), num_classes=5)
    with pytest.raises(UserError, match=r"196 rows, which is no square .* beside 2 tokens; without any it is one") as refused:
        source.build(**{**CPU, "image_size": size})
    assert "give" not in str(refused.value)


def test_nor_where_the_table_is_a_square_but_the_network_another(saved: Callable[[str], str]) -> None:
    source = TimmModel("vit_tiny_patch16_224", checkpoint=saved("vit_small_patch16_384"), num_classes=5)
    with pytest.raises(UserError, match=r"this looks like vit_small_patch16_384: give model\.name=vit_small_patch16_384\.$"):
        source.build(**CPU)


def test_a_table_of_an_oblong_of_patches_is_asked_for_its_size_which_helps(tmp_path: Path) -> None:
    oblong = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=(160, 224))
    torch.save(oblong.state_dict(), tmp_path / "w.pt")
    source = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path / "w.pt"), num_classes=5)
    with pytest.raises(UserError, match=r"141 rows, .* give image_size=\[ROWS,COLUMNS\] of the images that it was trained on"):
        source.build(**CPU)
    assert source.build(**{**CPU, "image_size": (160, 224)}).tokens.grid == (10, 14)


def test_no_network_is_named_whose_table_would_be_no_square_either() -> None:
    state = {name: torch.empty_like(tensor) for name, tensor in timm.create_model("deit3_small_patch16_224").state_dict().items()}
    state["pos_embed"] = torch.empty(1, 195, 384)
    assert looks_like(state, "vit_small_patch16_224") is None
