"""Cases of a ninth pair of eyes, what of them failed of checkpoints: what averaging leaves beside weights, remedies that fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fna.models.checkpoints import unpack

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
