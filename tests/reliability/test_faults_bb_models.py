"""Cases of the same eyes as `test_faults_bb`: attention of one's own that is made of torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fna
from fna.errors import UserError


class Calls(nn.MultiheadAttention):
    """Torch's own, called by super with other queries."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:  # type: ignore[override]
        return super().forward(2 * query, key, value, **options)


class Anew(nn.MultiheadAttention):
    """The parts of torch's own, multiplied out here."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:  # type: ignore[override]
        both = F.linear(query, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = both.permute(2, 0, 3, 1, 4)
        return self.out_proj(((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)), None


class ByHand(nn.Module):
    """Torch's own layer for its weights alone."""

    def __init__(self, width: int, heads: int, batch_first: bool = True) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(width, heads, batch_first=batch_first)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        own, x = self.own, query.transpose(0, 1)
        made, _ = F.multi_head_attention_forward(
            x, x, x, own.embed_dim, own.num_heads, own.in_proj_weight, own.in_proj_bias, None, None, False, 0.0,
            own.out_proj.weight, own.out_proj.bias, training=False, need_weights=False,
        )  # fmt: skip
        return made.transpose(0, 1), None


class Block(nn.Module):
    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(32), attention(32, 4, batch_first=True), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


def swapped(attention: type[nn.Module]) -> tuple[Tensor, Tensor, Tensor]:
    """What three such blocks make of tokens: as they are, with exact attention, with FNA."""
    torch.manual_seed(0)
    model, x = nn.Sequential(*(Block(attention) for _ in range(3))).eval(), torch.randn(2, 50, 32)
    with torch.no_grad():
        full = model(x)
        with fna.swap(model, "exact", layers="all"):
            exact = model(x)
        with fna.swap(model, "fna", layers="all", landmarks=8):
            return full, exact, model(x)


def test_a_subclass_that_multiplies_out_itself_is_swapped() -> None:
    full, exact, approximate = swapped(Anew)
    torch.testing.assert_close(exact, full)
    assert (approximate - full).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("attention", "said"),
    [
        (Calls, "block 0: Calls calls .* on three tensors"),
        (ByHand, "block 0 .* such as F.multi_head_attention_forward"),
    ],
)
def test_attention_that_only_torchs_own_function_sees_is_told_the_recipe(attention: type[nn.Module], said: str) -> None:
    with pytest.raises(UserError, match=said + r".*fna.swap\(model, blocks=\[...\], seam=...\), ten lines in") as raised:
        swapped(attention)
    assert "\n" not in str(raised.value)
