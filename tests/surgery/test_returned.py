"""What an attention of one's own returns in a model is held against what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import fna
from fna.errors import UserError
from fna.ops import contract
from fna.runner.failures import line


@dataclass(frozen=True)
class Odd:
    """Right on a few tokens, as in a trial call; odd on those of a model."""

    oddly: Callable[[Tensor], Any]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any) -> Any:
        return self.oddly(v)


@pytest.mark.parametrize(
    ("oddly", "said"),
    [
        (lambda v: v[:, :, 1:], "Odd returned shape"),
        (lambda v: v.transpose(1, 2), "Odd returned shape"),
        (lambda v: v.double(), "Odd returned torch.float64 for queries of torch.float32"),
        (lambda v: None, "Odd returned NoneType, no tensor"),
        (lambda v: (v, v), "Odd returned tuple, no tensor"),
    ],
)
def test_one_line_names_the_method(oddly: Callable[[Tensor], Any], said: str) -> None:
    model = timm.create_model("test_vit", num_classes=0).eval()
    with pytest.raises(UserError, match=said), fna.swap(model, Odd(oddly)), torch.inference_mode():
        model(torch.zeros(1, 3, 160, 160))


def test_autocast_chooses_its_own_dtype() -> None:
    model = timm.create_model("test_vit", num_classes=0).eval()
    with fna.swap(model, Odd(lambda v: v.bfloat16())), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model(torch.zeros(1, 3, 160, 160)).isfinite().all()


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_an_op_that_changes_q_k_or_v_in_place_is_told_by_name(name: str) -> None:
    """In `fna.attention` these are the caller's own tensors."""

    def op(q: Tensor, k: Tensor, v: Tensor, site: Any) -> Tensor:
        {"q": q, "k": k, "v": v}[name].mul_(2)
        return v.clone()

    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    said = r"^function changes q, k or v in place \(block 0\).*: work on a copy \(q\.clone\(\)\)"
    with pytest.raises(UserError, match=said):
        fna.attention(q, k, v, op)
    model = timm.create_model("test_vit", num_classes=0).eval()
    with pytest.raises(UserError, match="in place"), fna.swap(model, op, layers=[1]), torch.no_grad():
        model(torch.zeros(1, 3, 160, 160))


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_so_is_one_where_torch_counts_no_changes(name: str) -> None:
    """In inference mode, in a model and in `fna.attention`; also one that changes them in inference mode alone."""

    def op(q: Tensor, k: Tensor, v: Tensor, site: Any) -> Tensor:
        if torch.is_inference_mode_enabled():
            {"q": q, "k": k, "v": v}[name].mul_(2)
        return v.clone()

    model = timm.create_model("test_vit", num_classes=0).eval()
    said = r"^function changes q, k or v in place \(block 1\)"
    with pytest.raises(UserError, match=said), fna.swap(model, op, layers=[1]), torch.inference_mode():
        model(torch.zeros(1, 3, 160, 160))
    with pytest.raises(UserError, match="in place"), torch.inference_mode():
        fna.attention(*torch.randn(3, 1, 2, 5, 4), op)


@dataclass(frozen=True, slots=True)
class Slotted:
    """Cannot be kept by reference."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any) -> Tensor:
        return v * 2


def test_what_changes_nothing_is_held_against_copies_once_in_a_block_so_that_timed_calls_are_not(monkeypatch: Any) -> None:
    """NaN equals itself here: an image that overflows is nobody's change in place."""
    copied: list[int] = []
    found = contract._copies
    monkeypatch.setattr(contract, "_copies", lambda *args: copied.append(len(made := found(*args))) or made)
    model = timm.create_model("test_vit", num_classes=0).eval()
    op = Odd(lambda v: v * 2)
    for _ in range(2):
        with fna.swap(model, op, layers=[0, 1]), torch.inference_mode():
            model(torch.full((1, 3, 160, 160), float("nan")))
    assert copied == [3, 3, 0, 0]
    with fna.swap(model, "fna", layers=[1]), torch.inference_mode():
        model(torch.zeros(1, 3, 160, 160))
    assert copied[4:] == [0]  # fna's own are tested
    with fna.swap(model, Slotted(), layers=[1]), torch.inference_mode():
        assert model(torch.zeros(1, 3, 160, 160)).isfinite().all()


def test_an_exception_of_an_op_names_it_and_its_block_also_below_a_mask() -> None:
    """As a note, since its kind is the user's own to catch; the one line of a run has both."""
    model = timm.create_model("test_vit", num_classes=0).eval()

    def fail(v: Tensor) -> Tensor:
        raise KeyError("k")

    for mask in (None, "both"):
        with pytest.raises(KeyError) as raised, fna.swap(model, Odd(fail), layers=[1], mask=mask), torch.inference_mode():
            model(torch.zeros(1, 3, 160, 160))
        assert line(raised.value) == "KeyError: 'k' (raised by tests.surgery.test_returned.Odd in block 1)"
