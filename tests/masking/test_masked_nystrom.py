"""Masking on top of FNA, against the three factors written out in float64, every mode and pattern."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fna.configs import build_attention, choices
from fna.masking.masked import MODES, PATTERNS, Masked
from fna.ops.contract import Unsupported
from fna.ops.landmarks import Random
from fna.ops.nystrom import FastNystrom
from tests.masking.test_masked import RAGGED, SITE, Given, brute, qkv, sets

COUNT = 4
OP = FastNystrom(sampler=Random(), landmarks=COUNT, inverse="exact")


def explicit(q: Tensor, k: Tensor, v: Tensor, marks: Tensor, keys: Tensor) -> Tensor:
    """softmax(q k_p) pinv(softmax(q_p k_p)) softmax(q_p k) v of one image; ``keys`` bool ``[N]``, ``marks``: its landmarks."""

    def soft(a: Tensor, b: Tensor, seen: Tensor) -> Tensor:
        weights = (a @ b.mT * SITE.scale).exp() * seen
        return weights / weights.sum(-1, keepdim=True)

    all_seen = torch.ones(len(marks), dtype=torch.float64)
    block = soft(q[:, marks], k[:, marks], all_seen)
    summary = soft(q[:, marks], k, keys.double()) @ v
    return soft(q, k[:, marks], all_seen) @ torch.linalg.pinv(block) @ summary


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_factors_written_out(mode: str, pattern: str) -> None:
    q, k, v = qkv()
    site = replace(SITE, memo={})
    out = Masked(OP, Given(RAGGED), mode, pattern)(q, k, v, site)
    outside, inside = PATTERNS[pattern]
    if outside == "all":
        assert not out.any()
        return
    rows = brute(q, k, v, SITE, RAGGED, mode, pattern)
    masks = outside == "set" and mode == "mask"
    memo = site.memo["masked"] if masks else site.memo
    landmarks = next(value for key, value in memo.items() if key[0] == "landmarks")[1]
    for image in range(len(RAGGED)):
        valid = slice(None) if landmarks.valid is None else landmarks.valid[image]
        marks, taken = landmarks.index[image][valid], RAGGED[image]
        seen = ~taken if masks else torch.ones_like(taken)
        assert not (masks and taken[marks].any()), "a masked token was taken as a landmark"
        sunk = v[image].masked_fill(taken[:, None], 0) if outside == "set" and mode == "sink" else v[image]
        want = explicit(q[image], k[image], sunk, marks, seen)
        if inside != outside:
            want[:, taken] = rows[image][:, taken]
        torch.testing.assert_close(out[image], want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", choices("attn"))
def test_masked_tokens_reach_nobody(name: str) -> None:
    """Type I with mask, on every attention that there is: the values of masked tokens do not matter, or it says that it cannot."""
    q, k, v = qkv(1)
    wild = v.masked_fill(RAGGED[:, None, :, None], 1e6)
    op = Masked(build_attention(name, landmarks=COUNT), Given(RAGGED), "mask", "type1")
    try:
        calm = op(q, k, v, replace(SITE, memo={}))
    except Unsupported as refusal:
        said = str(refusal)
    else:
        torch.testing.assert_close(calm, op(q, k, wild, replace(SITE, memo={})))
        return
    assert "cannot honour 'keys'" in said


def test_landmarks_of_masked_blocks_are_their_own() -> None:
    """An earlier, unmasked block keeps its landmarks; the masked one draws as many that it may see."""
    q, k, v = qkv(2)
    site = replace(SITE, memo={})
    OP(q, k, v, site)
    Masked(OP, Given(RAGGED), "mask", "type1")(q, k, v, site)
    first = next(value for key, value in site.memo.items() if key[0] == "landmarks")[1]
    second = next(value for key, value in site.memo["masked"].items() if key[0] == "landmarks")[1]
    assert first.valid is None
    assert second.valid is None or second.valid.all()
    assert not RAGGED.gather(1, second.index).any()


def test_everything_but_cls_masked_is_finite() -> None:
    q, k, v = qkv(3)
    everything = sets(*[tuple(range(9))] * 3)
    for mode in MODES:
        for pattern in PATTERNS:
            out = Masked(OP, Given(everything), mode, pattern)(q, k, v, replace(SITE, memo={}))
            assert out.isfinite().all()
