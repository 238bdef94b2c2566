"""Cases of a twelfth pair of eyes, what of them failed: heads without bias or behind a BatchNorm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fna.errors import UserError
from tests.reliability.test_faults_n import CPU, HEAD, body, logits, source, stock

# 4 and 16: checkpoints

WEIGHT, BIAS = HEAD["head.weight"], HEAD["head.bias"]


@pytest.mark.parametrize("name", ["head", "head.1", "fc", "classifier"])
@pytest.mark.parametrize("asked", [None, 5])
def test_a_linear_head_without_bias_is_a_head(name: str, asked: int | None, tmp_path: Path) -> None:
    """Its logits are those of a bias of zeros; it was refused, or left out as a projection head."""
    model = source({**body(), f"{name}.weight": WEIGHT}, tmp_path, num_classes=asked).build(**CPU)
    torch.testing.assert_close(logits(model), stock({**body(), "head.weight": WEIGHT, "head.bias": torch.zeros(5)}))
    assert any(f"took {name}.weight as head.weight" in note for note in model.notes) == (name != "head")


def probe(eps: float, **settings: Any) -> nn.Sequential:
    """A BatchNorm that has seen features, and a linear layer."""
    torch.manual_seed(1)
    norm, linear = nn.BatchNorm1d(16, eps=eps, **settings), nn.Linear(16, 5)
    for _ in range(3):
        norm(3 * torch.randn(32, 16) + torch.randn(16))
    return nn.Sequential(norm, linear).eval()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_norm_before_the_head_is_run_with_it(affine: bool, bias: bool, tmp_path: Path) -> None:
    """MAE's linear probe is BatchNorm1d(affine=False, eps=1e-6) and a linear layer; a note says what was made of them."""
    head = probe(1e-5 if affine else 1e-6, affine=affine)
    state = {f"head.{name}": tensor for name, tensor in head.state_dict().items() if bias or name != "1.bias"}
    model = source({"model": {**body(), **state}}, tmp_path).build(**CPU)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert model.encode_image is not None
    with torch.no_grad():
        wanted = head(model.encode_image(images)) - (0 if bias else head[1].bias)
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)
    (note,) = (note for note in model.notes if "took" in note)
    assert f"with head.0, a BatchNorm right before it (eps {'1e-05' if affine else '1e-06'}, which files do not say)" in note


@pytest.mark.parametrize(
    ("state", "layers"),
    [
        ({"0.weight": WEIGHT[0], "0.bias": WEIGHT[1], "1.weight": WEIGHT, "1.bias": BIAS}, r"head\.0 \(LayerNorm\), head\.1"),
        ({"0.running_mean": WEIGHT[0], "0.running_var": WEIGHT[1] ** 2, "2.weight": WEIGHT}, r"head\.0 \(BatchNorm\), head\.2"),
        ({"bn.running_mean": WEIGHT[0], "bn.running_var": WEIGHT[1] ** 2, "fc.weight": WEIGHT}, r"head\.bn \(BatchNorm\), head\.fc"),
    ],
)
def test_a_head_that_is_not_run_is_told_by_its_layers(state: dict[str, Tensor], layers: str, tmp_path: Path) -> None:
    """Between head.0 and head.2 there may be a ReLU, which tensors do not show."""
    saved = {**body(), **{f"head.{name}": tensor for name, tensor in state.items()}}
    with pytest.raises(UserError, match=rf"its head is of several layers \({layers}; \d tensors\), which fna does not run"):
        source(saved, tmp_path, num_classes=5).build(**CPU)
    model = source(saved, tmp_path).build(**CPU)
    assert model.classify is None
    assert any("was left out" in note for note in model.notes)
