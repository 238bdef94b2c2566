"""Positions that close up: what is left of a cache is as if the dropped tokens had never been there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fna.errors import UserError
from fna.surgery.cache import kept
from fna.surgery.variant import Variant
from tests.kv.models import answer, continued, llama, made, padded, question
from tests.kv.test_families import asked

MORE = torch.tensor([[7, 8, 9, 10, 11, 12]])


def shallow() -> Any:
    """Of one block: its keys depend on nothing but their own token and position."""
    model = copy.deepcopy(llama())
    model.model.layers = nn.ModuleList(model.model.layers[:1])
    model.config.num_hidden_layers = 1
    return model


@torch.inference_mode()
def last(model: Any, ids: Tensor) -> Tensor:
    return model(ids).logits[0, -1]


@pytest.mark.parametrize("name", ["random", "divprune"])
def test_image_tokens_dropped_in_front_of_the_decoder_are_a_prompt_without_them(name: str) -> None:
    inputs, prompt = padded([question(0)])
    found, logits, cache = answer(llama(), made(name, positions="renumbered"), inputs, prompt)
    left = cache.kept[0].entries.positions[0, 0, : cache.lengths[0] - 7]
    alone = answer(llama(), None, {"input_ids": inputs["input_ids"][:, left]}, None)
    torch.testing.assert_close(logits, alone[1], atol=5e-5, rtol=5e-5)
    assert torch.equal(found, alone[0])


CASES: list[tuple[str, dict[str, Any]]] = [("random_kv", {}), ("snapkv", {"window": 4}), ("streaming", {"recent": 6}), ("h2o", {})]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_entries_dropped_behind_the_prompt_and_later_are_tokens_that_never_were(name: str, options: dict[str, Any]) -> None:
    """Step by step, in a decoder of one block, whose heads keep the same entries: one key head."""
    model = copy.deepcopy(shallow())
    attention = model.model.layers[0].self_attn
    for part in (attention.k_proj, attention.v_proj, attention.q_proj):  # all heads alike, so that they keep alike
        part.weight.data = part.weight.data[:8].repeat(part.weight.shape[0] // 8, 1)
    inputs, prompt = padded([question(0)])
    ids = inputs["input_ids"]
    seen: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode(), kept(model, made(name, positions="renumbered", **options), prompt=prompt) as cache:
        model(ids, past_key_values=cache, use_cache=True)
        for step, word in enumerate(MORE.split(1, 1)):
            held = cache.kept[0].entries.positions[0, 0]
            whole = torch.cat([ids, MORE[:, :step]], 1)[:, held]
            seen.append((torch.cat([whole, word], 1), model(word, past_key_values=cache, use_cache=True).logits[0, -1]))
        assert cache.lengths[0] < ids.shape[1]
    for words, logits in seen:
        torch.testing.assert_close(logits, last(model, words), atol=1e-4, rtol=1e-4)


def test_it_makes_a_difference_and_original_positions_are_the_default() -> None:
    asked_of = *padded([question(0), question(1)]), MORE.expand(2, -1)
    kinds = [{}, {"positions": "original"}, {"positions": "renumbered"}]
    plain, original, other = (continued(llama(), made("random_kv", **options), *asked_of) for options in kinds)
    assert torch.equal(plain, original)
    assert not torch.allclose(plain, other, atol=1e-3)


def test_a_model_with_positions_of_its_own_is_refused_before_it_is_asked() -> None:
    model, _ = asked("qwen")
    with pytest.raises(UserError, match=r"kv\.positions=renumbered: qwen2_5_vl_text has no plain rotary positions"):
        Variant("", kv=made("fna", positions="renumbered")).fits(model)
