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
