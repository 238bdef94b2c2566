"""Masks: each library's convention arrives at the op as the site means it."""

from __future__ import annotations

import pytest
import torch

from fna.ops.exact import Exact
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import DEPTH, HEADS, WIDTH, images, zoo

TOKENS = 17
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def seen(*shape):
    """Random boolean mask in which nobody is blind: True where a key may be seen."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[..., 0] = True
    return mask


def bias(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Told:
    """Exact attention that notes which fields were set."""

    def __init__(self):
        self.fields = set()

    def __call__(self, q, k, v, site):
        names = ("keys", "key_bias", "causal", "dense")
        self.fields |= {name for name in names if getattr(site, name) is not None and getattr(site, name) is not False}
        return Exact()(q, k, v, site)


def compare(model, call, fields):
    """The same numbers as stock, which the masks do change, by way of the named fields."""
    op = Told()
    with torch.no_grad():
        stock, free = call(True), call(False)
        with swap_tower(model, dict.fromkeys(range(DEPTH), op)):
            torch.testing.assert_close(call(True), stock, **CLOSE)
    assert op.fields == fields
    assert not torch.allclose(stock, free, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"attn_mask": seen(TOKENS, TOKENS)}, {"dense"}),
        ({"attn_mask": bias(TOKENS, TOKENS)}, {"dense"}),
        ({"attn_mask": bias(2, HEADS, TOKENS, TOKENS)}, {"dense"}),
        ({"attn_mask": seen(2, 1, 1, TOKENS)}, {"keys"}),
        ({"attn_mask": seen(1, 1, 1, TOKENS)}, {"keys"}),
        ({"attn_mask": bias(2, 1, 1, TOKENS)}, {"key_bias"}),
        ({"is_causal": True}, {"causal"}),
    ],
)
@pytest.mark.parametrize("name", ["timm", "eva"])
def test_timm(name, options, fields):
    model, x = zoo(name), images()
    compare(model, lambda on: model.forward_features(x, **(options if on else {})), fields)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"attn_mask": ~seen(TOKENS, TOKENS)}, {"dense"}),
        ({"attn_mask": ~seen(2 * HEADS, TOKENS, TOKENS)}, {"dense"}),
        ({"attn_mask": bias(2 * HEADS, TOKENS, TOKENS)}, {"dense"}),
        ({"key_padding_mask": ~seen(2, TOKENS)}, {"keys"}),
        ({"key_padding_mask": ~seen(2, TOKENS), "attn_mask": ~seen(TOKENS, TOKENS)}, {"keys", "dense"}),
        ({"attn_mask": torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1), "is_causal": True}, {"dense"}),
    ],
)
@pytest.mark.parametrize("name", ["open_clip", "open_clip_sequence_first"])
def test_multihead(name, options, fields):
    model = zoo(name)
    attention = model.visual.transformer.resblocks[1].attn
    x = bias(2, TOKENS, WIDTH) if attention.batch_first else bias(TOKENS, 2, WIDTH)
    compare(model, lambda on: attention(x, x, x, need_weights=False, **(options if on else {}))[0], fields)


@pytest.mark.parametrize(
    "mask", [~seen(TOKENS, TOKENS), bias(TOKENS, TOKENS), ~seen(2 * HEADS, TOKENS, TOKENS)], ids=["bool", "additive", "per head"]
)
def test_open_clip_custom(mask):
    model, x = zoo("open_clip_custom"), bias(2, TOKENS, WIDTH)
    compare(model, lambda on: model.visual.transformer(x, attn_mask=mask if on else None), {"dense"})
