"""What `fna.attention` and `fna.sample_landmarks` refuse: one line each, which names the argument and what would do."""

from __future__ import annotations

import math

import pytest
import torch

import fna
from tests.ops.reference import random_qkv

B, H, N, D = 2, 3, 17, 8
Q, K, V = random_qkv(B, H, N, D, torch.float32)
SEEN = torch.ones(B, N, dtype=torch.bool)


def refused(say: str, **change) -> None:
    with pytest.raises(fna.UserError, match=say) as refusal:
        fna.attention(**{"q": Q, "k": K, "v": V, "attn": "exact", **change})
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"q": None}, "q must be a plain tensor"),
        ({"q": Q[0]}, r"q must be.*\[3, 17, 8\]"),
        ({"k": K.tolist()}, "k must be a plain tensor"),
        ({"v": V.to_sparse()}, "v must be a plain tensor"),
        ({"q": Q.long(), "k": K.long(), "v": V.long()}, r"torch.int64.*\.float\(\)"),
        ({"q": Q.bool()}, "torch.bool"),
        ({"v": V.to(torch.complex64)}, "torch.complex64"),
        ({"k": K.double()}, "torch.float64"),
        ({"v": V.half()}, "torch.float16"),
        ({"v": V.to("meta")}, "on meta"),
        ({"k": K[:1]}, "images"),
        ({"k": K[:, :1], "v": V[:, :1]}, "heads.*repeat_interleave"),
        ({"v": V[:, :2]}, "heads"),
        ({"k": K[..., :4]}, "numbers in a head"),
        ({"v": V[..., :4]}, "numbers in a head"),
        ({"v": V[:, :, :9]}, "17 keys and 9 values"),
        ({"k": K[:, :, :0], "v": V[:, :, :0]}, "at least one"),
        ({"q": Q[..., :0], "k": K[..., :0], "v": V[..., :0]}, "at least one"),
    ],
)
def test_tensors_that_do_not_fit_together(change: dict, say: str) -> None:
    refused(say, **change)


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"keys": torch.zeros(B, N)}, r"keys must be bool \[2, 17\].*torch.float32"),
        ({"keys": SEEN.long()}, "keys must be bool.*torch.int64"),
        ({"keys": SEEN[0]}, r"keys must be bool.*\[17\]"),
        ({"keys": SEEN[:1]}, "keys must be bool"),
        ({"keys": SEEN[:, :5]}, "keys must be bool"),
        ({"keys": SEEN[:, None, None]}, "keys must be bool"),
        ({"keys": SEEN.tolist()}, "keys must be bool"),
        ({"keys": SEEN.to("meta")}, "keys are on meta"),
        ({"scale": math.nan}, "scale=nan"),
        ({"scale": math.inf}, "scale=inf"),
        ({"scale": "0.1"}, "scale='0.1'"),
        ({"scale": True}, "scale=True"),
        ({"scale": torch.ones(2)}, "scale=a tensor"),
        ({"causal": 1}, "causal=1"),
        ({"causal": SEEN}, "causal=a tensor"),
        ({"prefix": -1}, "prefix=-1"),
        ({"prefix": 18}, "prefix=18: there are 17 tokens"),
        ({"prefix": 1.0}, "prefix=1.0"),
        ({"prefix": True}, "prefix=True"),
        ({"grid": (5, 5)}, "25 tokens and there are 16"),
        ({"grid": (2, 2)}, "4 tokens and there are 16"),
        ({"grid": (16,)}, "rows, columns"),
        ({"grid": (-4, -4)}, "rows, columns"),
        ({"grid": (4.0, 4)}, "rows, columns"),
        ({"grid": 4}, "rows, columns"),
        ({"attn": 5}, "attn=5"),
        ({"attn": fna.UserError}, "attn="),
        ({"attn": "fna", "landmarks": math.inf}, "landmarks=inf"),
        ({"attn": "fna", "landmarks": 0}, "landmarks=0"),
        ({"attn": "fna", "steps": 2.5}, "steps=2.5"),
        ({"attn": "fna", "steps": math.nan}, "steps=nan"),
        ({"attn": "fna", "steps": 30}, "steps=30: give at most 16"),
        ({"attn": "nystromformer", "steps": 17}, "steps=17: give at most 16"),
        ({"attn": "fna", "ridge": math.inf}, "ridge=inf"),
        ({"attn": "fna", "resample_every": 1.5}, "resample_every=1.5"),
        ({"attn": "fna", "causal": True}, "causal"),
        ({"attn": "fna", "q": Q[:, :, :4]}, "as many queries as keys"),
    ],
)
def test_what_is_no_mask_no_number_and_no_method(change: dict, say: str) -> None:
    refused(say, **change)


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"x": [[1.0]]}, "got list"),
        ({"x": Q[0, 0]}, r"\[17, 8\]"),
        ({"x": Q[:, 0, :0]}, r"\[2, 0, 8\]"),
        ({"x": Q[:, 0].to(torch.complex64)}, "complex64"),
        ({"count": -1}, "count=-1"),
        ({"count": 4.0}, "count=4.0"),
        ({"count": True}, "count=True"),
        ({"count": 18}, "only 17 tokens"),
        ({"count": 18, "method": "random"}, "only 17 tokens"),
        ({"method": None}, "method=None"),
        ({"keep": SEEN.float()}, "keep must be bool"),
        ({"keep": SEEN[:, :4]}, "keep must be bool"),
        ({"drop": SEEN[None]}, "drop must be bool"),
        ({"drop": [True] * N}, "drop=.*must be a bool tensor"),
        ({"drop": SEEN}, "only 0 tokens"),
        ({"seed": 0.5, "method": "random"}, "seed=0.5"),
        ({"grid": (5, 5), "method": "uniform"}, "25 tokens and there are 17"),
        ({"grid": (0, 5), "method": "uniform"}, "rows, columns"),
    ],
)
def test_landmarks_that_cannot_be_drawn(change: dict, say: str) -> None:
    with pytest.raises(fna.UserError, match=say) as refusal:
        fna.sample_landmarks(**{"x": Q[:, 0], "count": 4, **change})
    assert "\n" not in str(refusal.value)


def test_a_number_that_is_none_comes_out_as_none() -> None:
    """NaN in one token never comes out as a figure in that token, whatever the method."""
    for tensors in ({"q": Q.clone()}, {"v": V.clone()}):
        next(iter(tensors.values()))[0, :, 5] = math.nan
        for attn, options in {"exact": {}, "fna": {"landmarks": 8}}.items():
            out = fna.attention(**{"q": Q, "k": K, "v": V, **tensors}, attn=attn, **options)
            assert out[0, :, 5].isnan().all()
            assert out[1].isfinite().all()


def test_decoding_and_a_grid_that_fits_are_taken() -> None:
    assert fna.attention(Q[:, :, :1], K, V, "exact", causal=False).shape == (B, H, 1, D)
    assert fna.attention(Q, K, V, "fna", sampler="uniform", landmarks=6, grid=(4, 4)).isfinite().all()
    assert fna.attention(Q, K, V, "fna", sampler="uniform", landmarks=6, prefix=0, grid=(1, 17)).isfinite().all()
    assert fna.attention(Q, K, V, "fna", landmarks=6, scale=1, keys=SEEN).isfinite().all()


@pytest.mark.parametrize("method", ["fps", "random", "uniform"])
@pytest.mark.parametrize("options", [{}, {"keep": SEEN[:0]}, {"drop": SEEN[:0]}, {"keep": SEEN[0]}, {"drop": ~SEEN[0]}], ids=str)
def test_no_images_no_landmarks(method: str, options: dict) -> None:
    assert fna.sample_landmarks(Q[:0, 0], 4, method, **options).shape == (0, 4)
    index, valid = fna.sample_landmarks(Q[:0, 0], 4, method, return_valid=True, **options)
    assert index.dtype == torch.int64
    assert valid.dtype == torch.bool
    assert index.shape == valid.shape == (0, 4)
