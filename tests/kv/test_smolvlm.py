"""SmolVLM, a third family, with grouped heads and a tower of its own: what LLaVA's decoder promises, and a trap of transformers."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from fna.ops.exact import Exact
from fna.surgery.cache import kept, read_prompt
from fna.surgery.swap import swap_tower
from tests.kv.models import FULL, answer, made
from tests.kv.test_families import IMAGE, POLICIES, TEXT
from tests.surgery.zoo import liven

TOKENS = 16  # of an image: 8 x 8 patches, four of them a token


@cache
def smolvlm() -> Any:
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 4,
    }  # fmt: skip
    config = SmolVLMConfig(
        vision_config=vision, text_config={"model_type": "llama", **TEXT}, image_token_id=IMAGE, scale_factor=2, pad_token_id=0
    )
    return liven(SmolVLMForConditionalGeneration(config))


def asked(rows: int, side: str = "left") -> dict[str, Tensor]:
    """Questions about an image each, every second one 2 words shorter and padded."""
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(2, 59, (rows, 12), generator=draw)
    ids = torch.cat([words[:, :3], torch.full((rows, TOKENS), IMAGE), words[:, 3:]], 1)
    mask = torch.ones_like(ids)
    for row in range(1, rows, 2):
        gone, there = (slice(0, 2), slice(2, None)) if side == "left" else (slice(-2, None), slice(0, -2))
        ids[row, there], mask[row, gone] = ids[row, :-2].clone(), 0
        ids[row, gone] = 0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(rows, 1, 3, 32, 32, generator=draw)}


def alone(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row without its padding."""
    there = inputs["attention_mask"][row].bool()
    one = {key: inputs[key][row : row + 1, there] for key in ("input_ids", "attention_mask")}
    return {**one, "pixel_values": inputs["pixel_values"][row : row + 1]}


@pytest.mark.parametrize("part", ["vision", "language"])
def test_exact_attention_through_our_seam_is_the_stock_model(part: str) -> None:
    model, inputs = smolvlm(), asked(2)
    prompt = read_prompt(model, **inputs)
    stock = answer(model, None, inputs, prompt)
    with swap_tower(model, {0: Exact(), 1: Exact()}, part=part):
        seam = answer(model, None, inputs, prompt)
    assert torch.equal(seam[0], stock[0])
    torch.testing.assert_close(seam[1], stock[1], atol=5e-5, rtol=5e-5)


def test_a_full_budget_is_the_stock_model() -> None:
    model, inputs = smolvlm(), asked(2)
    prompt = read_prompt(model, **inputs)
    assert int(prompt.image.sum()) == 2 * TOKENS
    stock = answer(model, None, inputs, prompt)
    for name in POLICIES:
        ours = answer(model, made(name, **FULL), inputs, prompt)
        assert torch.equal(ours[0], stock[0]), name
        torch.testing.assert_close(ours[1], stock[1], atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("name", ["none", *POLICIES])
def test_eight_questions_at_once_are_answered_as_each_alone(name: str) -> None:
    """Those that are padded too; in the cache of each row lies what lies there alone."""
    model, inputs = smolvlm(), asked(8)
    policy = None if name == "none" else made(name)
    together = answer(model, policy, inputs, read_prompt(model, **inputs))
    for row in range(8):
        one = alone(inputs, row)
        ids, logits, _ = answer(model, policy, one, read_prompt(model, **one))
        assert torch.equal(together[0][row], ids[0])
        torch.testing.assert_close(together[1][:, row], logits[:, 0], atol=5e-5, rtol=5e-5)


def test_padding_at_the_right_is_as_good() -> None:
    model, inputs = smolvlm(), asked(2, "right")
    one, place = alone(inputs, 1), int(inputs["attention_mask"][1].sum())
    for policy in (None, made("fna"), made("snapkv")):
        found = []
        for given in (inputs, one):
            positions = (given["attention_mask"].cumsum(1) - 1).clamp_min(0)
            with torch.inference_mode(), kept(model, policy, prompt=read_prompt(model, **given)) as cache:
                out = model(**given, position_ids=positions, past_key_values=cache, use_cache=True)
                word, mask = out.logits[-1:, place - 1].argmax(-1, keepdim=True), given["attention_mask"]
                more = {"attention_mask": torch.cat([mask, torch.ones_like(mask[:, :1])], 1), "past_key_values": cache}
                told = model(word.expand(len(mask), -1), position_ids=positions.amax(1, keepdim=True) + 1, **more, use_cache=True)
                found.append(told.logits[-1])
        torch.testing.assert_close(found[0], found[1], atol=5e-5, rtol=5e-5)


def test_a_second_turn_with_a_full_budget_is_the_stock_second_turn() -> None:
    model, inputs = smolvlm(), asked(2)
    more, found = torch.randint(2, 59, (2, 5), generator=torch.Generator().manual_seed(5)), []
    for policy in (None, made("fna", budget=1.0), made("fna", budget=0.25)):
        with torch.inference_mode(), kept(model, policy, prompt=read_prompt(model, **inputs)) as cache:
            first = model.generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False)
            mask = torch.cat([inputs["attention_mask"], torch.ones(2, 9, dtype=torch.long)], 1)
            ids = torch.cat([first, more], 1)
            found.append(model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=4, do_sample=False))
            assert cache.get_seq_length() == ids.shape[1] + 3
    assert torch.equal(found[0], found[1])
    assert found[2].shape == found[0].shape


def test_an_image_of_zeros_is_taken_for_padding_where_another_stands_beside_it() -> None:
    """The trap: transformers drops it, and the image tokens are too many. Alone it is kept; hardly grey it is seen."""
    model, inputs = smolvlm(), asked(2)
    inputs["pixel_values"][1] = 0
    with pytest.raises(ValueError, match="do not match"):
        answer(model, made("fna"), inputs, read_prompt(model, **inputs))
    one = alone(inputs, 1)
    blank = answer(model, made("fna"), one, read_prompt(model, **one))
    inputs["pixel_values"][1] = 1e-6
    grey = answer(model, made("fna"), inputs, read_prompt(model, **inputs))
    torch.testing.assert_close(grey[1][:, 1], blank[1][:, 0], atol=1e-4, rtol=1e-4)
