"""SnapKV and H2O against scores that kvpress 0.5.5 gave to the same small random Llama (`scripts/store_kvpress.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fna.kv.contract import Prompt
from fna.kv.h2o import H2O
from fna.kv.snapkv import SnapKV
from fna.surgery.cache import kept
from tests.kv.models import stored

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from store_kvpress import FILE, POOL, TOKENS, WINDOW, prompt, small

LAYERS = range(3)


@pytest.fixture(scope="module")
def scores() -> dict[str, Tensor]:
    assert FILE.stat().st_size < 1_000_000
    return load_file(FILE)


def read(policy: object) -> object:
    """The cache behind the prompt; all of it but the window may be compressed."""
    place = torch.arange(TOKENS)[None]
    model, whole = small(), Prompt(place < TOKENS - WINDOW, torch.ones_like(place, dtype=torch.bool))
    with torch.inference_mode(), kept(model, policy, prompt=whole) as cache:
        model(prompt(), past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("share", [0.5, 0.25, 0.125])
def test_snapkv_keeps_what_kvpress_scores_highest(share: float, scores: dict[str, Tensor]) -> None:
    cache = read(SnapKV(budget=share, window=WINDOW, pool=POOL))
    count = WINDOW + round(share * (TOKENS - WINDOW))
    for layer in LAYERS:
        best = scores[f"snapkv.{layer}"].topk(count).indices.sort().values
        assert stored(cache, layer) == best.tolist()


def test_h2o_scores_the_prompt_as_kvpress_observes_it(scores: dict[str, Tensor]) -> None:
    cache = read(H2O(budget=1.0))
    for layer in LAYERS:
        ours = cache.kept[layer].memo["scores"][0]  # type: ignore[attr-defined]
        torch.testing.assert_close(ours / 4, scores[f"h2o.{layer}"], rtol=1e-4, atol=1e-5)  # theirs is a mean over a group's heads
