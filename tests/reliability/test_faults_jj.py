"""What other libraries do unasked (findings/), second part: where fna must say it, or must not follow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import fna


class Adapter(nn.Module):
    """A linear layer and what was learnt beside it, with the base weights under their own names, as peft's LoRA has them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.learnt = base, nn.Linear(base.in_features, base.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.learnt(x)


class Net(nn.Module):
    """Four of torch's own encoder layers on patches."""

    def __init__(self, **layer: bool) -> None:
        super().__init__()
        one = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", **{"batch_first": True, **layer})
        self.patch, self.body = nn.Conv2d(3, 32, 8, 8), nn.TransformerEncoder(one, 4, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).mT
        if not self.body.layers[0].self_attn.batch_first:
            return self.body(tokens.transpose(0, 1)).mean(0)
        return self.body(tokens).mean(1)


@pytest.fixture(autouse=True)
def fast_path() -> Iterator[None]:
    """torch's fast path as it is by default, and given back."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def adapted(**layer: bool) -> Net:
    torch.manual_seed(0)
    net = Net(**layer).requires_grad_(False).eval()
    for block in net.body.layers:
        block.linear1 = Adapter(block.linear1)
    return net


def test_an_adapter_that_torch_passes_over_in_eval_mode_is_refused_with_what_puts_it_right() -> None:
    """torch 2.15.0 runs an nn.TransformerEncoderLayer in eval mode as one operator on `linear1.weight`, and never calls linear1.

    peft 0.21.2's LoRA is such a linear1 (findings/peft_adapter_that_acts_in_training_alone.sh). Changed blocks have hooks, which
    keep torch from that operator: the adapter acted in them alone, and exact attention of fna's "agreed" with full on 87 %.
    """
    net, images = adapted(), torch.randn(2, 3, 32, 32)
    with pytest.raises(fna.UserError) as refusal:
        fna.swap(net, "exact", layers="all")
    assert str(refusal.value).startswith("block 0: in eval mode torch's fast path passes over linear1 (")
    assert "torch.backends.mha.set_fastpath_enabled(False) first, or merge" in str(refusal.value)
    torch.backends.mha.set_fastpath_enabled(False)
    full = net(images)
    with fna.swap(net, "exact", layers="all"):
        assert torch.allclose(net(images), full, atol=1e-5)


def test_an_activation_put_in_later_that_torch_passes_over_is_refused() -> None:
    """torch 2.15.0 goes by a flag from when the layer was made (torch/nn/modules/transformer.py, activation_relu_or_gelu)."""
    net = Net().eval()
    net.body.layers[1].activation = nn.Tanh()
    with pytest.raises(fna.UserError, match=r"block 1: .* passes over activation \(torch.nn.modules.activation.Tanh\)"):
        fna.swap(net, "exact", layers="all")


def test_layers_that_torch_runs_part_by_part_anyway_are_changed_whatever_is_in_them() -> None:
    """Tokens first, batch second: torch 2.15.0 has no fast path for those."""
    net, images = adapted(batch_first=False), torch.randn(2, 3, 32, 32)
    full = net(images)
    with fna.swap(net, "exact", layers="all"):
        assert torch.allclose(net(images), full, atol=1e-5)


def test_plain_layers_are_changed_as_before() -> None:
    net, images = Net().eval(), torch.randn(2, 3, 32, 32)
    full = net(images)
    with fna.swap(net, "exact", layers="all"):
        assert torch.allclose(net(images), full, atol=1e-5)
