"""Decoders inside vision-language models, other families, and what is refused: small random models of transformers' own."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    StaticCache,
)

from fna.errors import UserError
from fna.kv.contract import Prompt
from fna.ops.exact import Exact
from fna.surgery.cache import check_decoder, check_generation, find_decoder, kept, read_prompt
from fna.surgery.swap import swap_tower
from tests.kv.models import FULL, answer, llama, made, padded, question
from tests.surgery.zoo import liven

TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
VISION = CLIPVisionConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, projection_dim=16
)
IMAGE = 60
POLICIES = ["fna", "snapkv", "h2o", "avl", "fastv", "sparsevlm"]


@cache
def llava() -> Any:
    config = LlavaConfig(vision_config=VISION, text_config=LlamaConfig(**TEXT), image_token_id=IMAGE, image_seq_length=16)
    return liven(LlavaForConditionalGeneration(config))


@cache
def llava_next() -> Any:
    """With a Mistral inside: grouped heads, and tiles."""
    text = MistralConfig(**TEXT, sliding_window=None)
    grid = [[32, 64], [64, 32]]
    config = LlavaNextConfig(vision_config=VISION, text_config=text, image_token_id=IMAGE, image_grid_pinpoints=grid)
    return liven(LlavaNextForConditionalGeneration(config))


@cache
def qwen() -> Any:
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2,
        "out_hidden_size": 32, "fullatt_block_indexes": [0], "window_size": 16,
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = {**TEXT, "rope_parameters": rope}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, vision_start_token_id=61, vision_end_token_id=62
    )
    return liven(Qwen2_5_VLForConditionalGeneration(config))


def asked(kind: str, rows: int = 2) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model and questions about an image each, the second shorter and padded at the left."""
    draw = torch.Generator().manual_seed(1)
    model, more = {
        "llava": lambda: (llava(), {"pixel_values": torch.randn(rows, 3, 32, 32, generator=draw)}),
        "llava_next": lambda: (
            llava_next(),
            {"pixel_values": torch.randn(rows, 3, 3, 32, 32, generator=draw), "image_sizes": torch.tensor([[32, 64]] * rows)},
        ),
        "qwen": lambda: (
            qwen(),
            {"pixel_values": torch.randn(rows * 64, 96, generator=draw), "image_grid_thw": torch.tensor([[1, 8, 8]] * rows)},
        ),
    }[kind]()
    count = {"llava": 16, "qwen": 16, "llava_next": 16 + 4 * 9}[kind]
    words = torch.randint(2, 59, (rows, 12), generator=draw)
    start = torch.tensor([[61]] * rows)
    ids = torch.cat([words[:, :3], start, torch.full((rows, count), IMAGE), words[:, 3:]], 1)
    mask = torch.ones_like(ids)
    if rows > 1:
        ids[1] = torch.cat([torch.zeros(2, dtype=torch.long), ids[1, :3], ids[1, 3:-2]])
        mask[1, :2] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, **more}
    if kind == "qwen":
        inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    return model, inputs


@pytest.mark.parametrize("kind", ["llava", "llava_next", "qwen"])
def test_a_full_budget_is_the_stock_model(kind: str) -> None:
    model, inputs = asked(kind)
    prompt = read_prompt(model, **inputs)
    assert int(prompt.image.sum()) == 2 * int((inputs["input_ids"][0] == IMAGE).sum())
    stock = answer(model, None, inputs, prompt)
    for name in POLICIES:
        ours = answer(model, made(name, **FULL), inputs, prompt)
        assert torch.equal(ours[0], stock[0]), name
        torch.testing.assert_close(ours[1], stock[1], atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("kind", ["llava", "llava_next", "qwen"])
def test_a_row_does_not_depend_on_its_batch_mates(kind: str) -> None:
    model, inputs = asked(kind)
    for name in POLICIES:
        together = answer(model, made(name), inputs, read_prompt(model, **inputs))
        lone_model, one = asked(kind, rows=1)
        one["input_ids"], one["attention_mask"] = inputs["input_ids"][:1], inputs["attention_mask"][:1]
        share = {
            key: value[: len(value) // 2]
            for key, value in inputs.items()
            if key in ("pixel_values", "image_sizes", "image_grid_thw")
        }
        alone = answer(lone_model, made(name), {**one, **share}, read_prompt(model, **one))
        assert torch.equal(together[0][0], alone[0][0]), name
        assert together[2].get_seq_length() == inputs["input_ids"].shape[1] + 7


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_exact_attention_through_our_seam_is_the_stock_model_with_a_policy_on_top(kind: str) -> None:
    model, inputs = asked(kind)
    prompt = read_prompt(model, **inputs)
    stock, policy = answer(model, None, inputs, prompt), answer(model, made("fna"), inputs, prompt)
    if kind == "llava":
        with swap_tower(model, {0: Exact(), 2: Exact()}, part="language"):
            seam, both = answer(model, None, inputs, prompt), answer(model, made("fna"), inputs, prompt)
        torch.testing.assert_close(both[1], policy[1], atol=5e-5, rtol=5e-5)
    else:
        with swap_tower(model, {0: Exact(), 1: Exact()}):
            seam = answer(model, None, inputs, prompt)
    torch.testing.assert_close(seam[1], stock[1], atol=5e-5, rtol=5e-5)


def test_eager_attention_serves_as_well() -> None:
    inputs, prompt = padded([question(0), question(1)])
    eager = answer(llama(implementation="eager"), made("fna"), inputs, prompt)
    fused = answer(llama(), made("fna"), inputs, prompt)
    torch.testing.assert_close(eager[1], fused[1], atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    import copy

    inputs, prompt = padded([question(0), question(1)])
    for name in POLICIES:
        logits = answer(copy.deepcopy(llama()).to(dtype), made(name), inputs, prompt)[1]
        assert logits.isfinite().all(), name


def test_another_family_with_norms_on_queries_and_keys() -> None:
    model = liven(Qwen3ForCausalLM(Qwen3Config(**TEXT, head_dim=8)))
    inputs, prompt = padded([question(0), question(1)])
    stock, ours = answer(model, None, inputs, prompt), answer(model, made("snapkv", budget=1.0), inputs, prompt)
    torch.testing.assert_close(ours[1], stock[1], atol=5e-5, rtol=5e-5)


def test_sampling_is_seeded_as_ever() -> None:
    inputs, prompt = padded([question(0), question(1)])
    found = []
    for policy in (None, made("fna", budget=1.0)):
        torch.manual_seed(3)
        found.append(answer(llama(), policy, inputs, prompt, do_sample=True, num_return_sequences=2)[0])
    assert torch.equal(*found)


def test_a_second_turn_with_a_full_budget_is_the_stock_second_turn() -> None:
    inputs, prompt = padded([question(0), question(1)])
    more = torch.randint(2, 60, (2, 5), generator=torch.Generator().manual_seed(5))
    found = []
    for policy in (None, made("fna", budget=1.0)):
        with torch.inference_mode(), kept(llama(), policy, prompt=prompt) as cache:
            first = llama().generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False)
            mask = torch.cat([inputs["attention_mask"], torch.ones(2, 9, dtype=torch.long)], 1)
            ids = torch.cat([first, more], 1)
            found.append(llama().generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=4, do_sample=False))
    assert torch.equal(*found)


def test_a_prompt_in_chunks_is_the_prompt() -> None:
    inputs, prompt = padded([question(0)])
    whole = answer(llama(), made("snapkv", window=4), inputs, prompt)
    chunks = answer(llama(), made("snapkv", window=4), inputs, prompt, prefill_chunk_size=16)
    torch.testing.assert_close(whole[1], chunks[1], atol=5e-5, rtol=5e-5)
    with pytest.raises(UserError, match="prefill_chunk_size"):
        answer(llama(), made("fna"), inputs, prompt, prefill_chunk_size=16)


def test_what_cannot_be_served_is_one_line() -> None:
    model = llama()
    inputs, prompt = padded([question(0)])
    with pytest.raises(UserError, match="sliding window"):
        check_decoder(MistralConfig(**TEXT, sliding_window=16))
    with pytest.raises(UserError, match="sliding_attention"):
        check_decoder(Qwen3Config(**TEXT, use_sliding_window=True, sliding_window=16, max_window_layers=1))
    with pytest.raises(UserError, match="cache_implementation=static"):
        check_generation(cache_implementation="static", max_new_tokens=4)
    with pytest.raises(UserError, match="assistant_model"):
        check_generation(assistant_model="small")
    check_generation(max_new_tokens=4, num_beams=2, assistant_model=None)
    with pytest.raises(UserError, match="no causal decoder"):
        find_decoder(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="read_prompt"), kept(llava(), made("fna")):
        pass
    with pytest.raises(UserError, match="past_key_values=cache"), kept(model, made("fna"), prompt=prompt):
        model.generate(**inputs, max_new_tokens=2)
    with pytest.raises(UserError, match="past_key_values=cache"), kept(model, made("fna"), prompt=prompt):
        model.generate(**inputs, max_new_tokens=2, past_key_values=StaticCache(config=model.config, max_cache_len=99))
    with kept(model, made("fna"), prompt=prompt) as cache:
        model(inputs["input_ids"], past_key_values=cache, use_cache=True)
        with pytest.raises(UserError, match="4-D"):
            model(inputs["input_ids"][:, :1], attention_mask=torch.zeros(1, 1, 1, 40), past_key_values=cache, use_cache=True)
    with pytest.raises(UserError, match="take tokens back"):
        answer(model, made("fna"), inputs, prompt, assistant_model=LlamaForCausalLM(model.config))
    with pytest.raises(UserError, match="there are only 24 tokens"):
        answer(model, made("fna", budget=25), inputs, prompt)


def test_the_middle_of_a_text_is_what_may_go() -> None:
    valid = torch.ones(2, 50, dtype=torch.bool)
    valid[1, :6] = False
    image = Prompt.middle(valid, first=4, last=10).image
    assert image[0].nonzero()[:, 0].tolist() == list(range(4, 40))
    assert image[1].nonzero()[:, 0].tolist() == list(range(10, 40))
