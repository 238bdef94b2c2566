"""The transformers seam: padding, causality, grouped heads, caches, and blocks that do not use the table."""

from __future__ import annotations

import time
from functools import cache

import pytest
import torch
from transformers import (
    AttentionMaskInterface,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from fna.errors import UserError
from fna.ops.contract import Site
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.seams_hf import NAME
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import Keep, Spy, fresh, images, liven, run, zoo

LAYERS, HEADS, GROUPS = 3, 4, 2
TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@cache
def llama(implementation="sdpa"):
    torch.manual_seed(0)
    return liven(LlamaForCausalLM(LlamaConfig(**TEXT, attn_implementation=implementation)))


@cache
def llava():
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=59, image_seq_length=16)
    return liven(LlavaForConditionalGeneration(config))


@pytest.mark.parametrize("early", [False, True], ids=["argument", "config"])
def test_attention_weights_that_a_changed_block_cannot_give_are_refused(early):
    """transformers leaves out what is None, so that those of other blocks would stand in wrong places."""
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8
    )
    config._attn_implementation = "eager"
    config.output_attentions = early
    model = CLIPVisionModel(config).eval()
    asked = {} if early else {"output_attentions": True}
    with torch.no_grad():
        assert len(model(images(), **asked).attentions) == 4
        with swap_tower(model, {0: Exact(), 1: Exact()}):
            with pytest.raises(UserError, match=r"output_attentions: block 0") as refusal:
                model(images(), **asked)
            assert "\n" not in str(refusal.value)
            states = model(images(), output_hidden_states=True, output_attentions=False).hidden_states
        assert len(states) == 5
        assert len(model(images(), **asked).attentions) == 4


def test_so_are_those_that_blocks_are_not_told_of():
    """SigLIP's blocks are never told that weights are wanted: transformers collects them on the way out."""
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    config._attn_implementation = "eager"
    model = SiglipVisionModel(config).eval()
    with torch.no_grad():
        assert len(model(images(), output_attentions=True).attentions) == 3
        with swap_tower(model, {0: Exact(), 1: Exact()}):
            with pytest.raises(UserError, match=r"output_attentions: block 0"):
                model(images(), output_attentions=True)
            model(images(), output_hidden_states=True)
        assert len(model(images(), output_attentions=True).attentions) == 3


@pytest.mark.parametrize("padded", [True, False])
def test_exact_decodes_as_stock_does_bit_for_bit(padded):
    """Grouped keys are read in place, by the same kernel: a step with a cache gives stock's bits."""
    model, inputs = llama(), prompt(padded)
    with torch.no_grad():
        stock = model.generate(**inputs, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True)
        with swap_tower(model, dict.fromkeys(range(LAYERS), Exact()), part="language"):
            ours = model.generate(**inputs, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True)
    assert torch.equal(ours.sequences, stock.sequences)
    for a, b in zip(ours.logits, stock.logits, strict=True):
        if padded:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        else:
            assert torch.equal(a, b)


@pytest.mark.slow
def test_a_decode_step_of_exact_costs_what_stocks_does():
    """In turns, the least of each, since others only add; with keys repeated for every head it was 14 to 18 times as much."""
    q, k, v = torch.randn(1, 32, 1, 64), torch.randn(1, 8, 1024, 64), torch.randn(1, 8, 1024, 64)
    site = Site(scale=0.125)

    def seconds(call):
        began = time.perf_counter()
        for _ in range(20):
            call()
        return time.perf_counter() - began

    def stock():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.125, enable_gqa=True)

    own, stocks = zip(*((seconds(lambda: Exact()(q, k, v, site)), seconds(stock)) for _ in range(31)), strict=True)
    assert torch.equal(Exact()(q, k, v, site), stock())
    assert min(own) < 1.5 * min(stocks)


def prompt(padded=True):
    """Token ids and mask ``[2, 7]``; the second row is padded by three on the left."""
    ids = torch.randint(3, 59, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        ids[1, :3], mask[1, :3] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(model, inputs):
    """Logits where there is no padding."""
    with torch.no_grad():
        return model(**inputs).logits[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [[0, 1, 2], [1]], ids=["all", "one"])
@pytest.mark.parametrize("padded", [True, False])
def test_decoder_with_left_padding_and_grouped_heads(implementation, layers, padded):
    """Trap 1 and trap 5. With one block changed the others must still get a mask that they understand."""
    model, inputs = llama(implementation), prompt(padded)
    stock = logits(model, inputs)
    with swap_tower(model, dict.fromkeys(layers, Exact()), part="language"):
        torch.testing.assert_close(logits(model, inputs), stock, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(model, inputs), stock)


def test_padding_arrives_as_a_row_a_batch_not_as_a_square():
    sites, inputs = [], prompt()
    with swap_tower(llama(), {1: Spy(sites)}, part="language"):
        logits(llama(), inputs)
        logits(llama(), prompt(padded=False))
    first, second = sites
    assert torch.equal(first.keys, inputs["attention_mask"].bool())
    assert first.causal
    assert first.dense is None
    assert second.keys is None
    assert second.causal
    assert (first.tokens.prefix, first.tokens.grid) == (0, None)


def test_without_the_mask_function_padding_would_be_lost_in_silence(monkeypatch):
    """Trap 1 as it was found: the reason why `padding_mask` is registered."""
    model, inputs = llama(), prompt()
    stock = logits(model, inputs)
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, NAME)
    with swap_tower(model, dict.fromkeys(range(LAYERS), Exact()), part="language"):
        through = logits(model, inputs)
    torch.testing.assert_close(through[:7], stock[:7], rtol=1e-5, atol=1e-5)
    assert (through[7:] - stock[7:]).abs().max() > 0.1


def test_grouped_heads_are_expanded_once():
    shapes = []

    class Shapes:
        def __call__(self, q, k, v, site):
            shapes.append((q.shape[1], k.shape[1], v.shape[1]))
            return Exact()(q, k, v, site)

    with swap_tower(llama(), {0: Shapes()}, part="language"):
        logits(llama(), prompt())
    model = zoo("eva_grouped")
    with swap_tower(model, {0: Shapes()}), torch.no_grad():
        run(model, images())
    assert shapes == [(HEADS, HEADS, HEADS), (2, 2, 2)]


@pytest.mark.parametrize("cache_kind", ["dynamic", "static"])
def test_generation_with_a_cache(cache_kind):
    model, inputs = llama(), prompt()
    options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": None if cache_kind == "dynamic" else "static"}
    stock = model.generate(**inputs, **options)
    with swap_tower(model, dict.fromkeys(range(LAYERS), Exact()), part="language"):
        assert torch.equal(model.generate(**inputs, **options), stock)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [[0, 1, 2], [1]], ids=["all", "one"])
def test_a_second_chunk_knows_how_far_it_is(implementation, layers):
    """Four tokens, then three that see the four in the cache: in changed blocks and in those beside them."""
    model, sites = llama(implementation), []
    ids = prompt(padded=False)["input_ids"]

    class Told:
        def __call__(self, q, k, v, site):
            sites.append((site.causal, site.q_offset))
            return Exact()(q, k, v, site)

    with torch.no_grad():
        whole = model(ids).logits
        with swap_tower(model, dict.fromkeys(layers, Told()), part="language"):
            past = model(ids[:, :4], use_cache=True).past_key_values
            second = model(ids[:, 4:], past_key_values=past).logits
    torch.testing.assert_close(second, whole[:, 4:], rtol=1e-4, atol=1e-4)
    assert sites == [(True, 0)] * len(layers) + [(True, 4)] * len(layers)


def test_llava_both_towers():
    model = llava()
    ids = torch.tensor([[1, *[59] * 16, 5, 6, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images(1)}
    assert find_tower(model).kind.startswith("transformers.CLIPVision")
    assert find_tower(model, "language").kind == "transformers.LlamaModel"
    with torch.no_grad():
        stock, said = model(**inputs).logits, model.generate(**inputs, max_new_tokens=4, do_sample=False)
        with swap_tower(model, {0: Exact(), 1: Exact()}), swap_tower(model, {1: Exact(), 2: Exact()}, part="language"):
            torch.testing.assert_close(model(**inputs).logits, stock, rtol=1e-5, atol=1e-5)
            assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), said)
        with swap_tower(model, {0: Keep()}):
            assert not torch.allclose(model(**inputs).logits, stock, atol=1e-2)
        assert torch.equal(model(**inputs).logits, stock)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_masked_patches_reach_dinov2(implementation):
    model, sites = fresh("hf_dinov2" if implementation == "sdpa" else "hf_dinov2_eager"), []
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[1, 9:] = False
    with torch.no_grad():
        stock = model(images(), attention_mask=mask).last_hidden_state[mask]
        with swap_tower(model, {0: Exact(), 2: Exact()}):
            through = model(images(), attention_mask=mask).last_hidden_state[mask]
        with swap_tower(model, {0: Spy(sites)}):
            model(images(), attention_mask=mask)
    torch.testing.assert_close(through, stock, rtol=1e-5, atol=1e-5)
    assert torch.equal(sites[0].keys, mask)
    assert sites[0].dense is None


def test_a_four_dimensional_mask_stays_what_it_is():
    model, inputs = llama(), prompt(padded=False)
    allowed = torch.ones(7, 7, dtype=torch.bool).tril()
    allowed[5, 1] = False
    inputs["attention_mask"] = allowed.expand(2, 1, 7, 7)
    with torch.no_grad():
        stock = model(**inputs).logits
        with swap_tower(model, dict.fromkeys(range(LAYERS), Exact()), part="language"):
            torch.testing.assert_close(model(**inputs).logits, stock, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["hf_dinov2", "timm"])
def test_a_block_that_does_not_call_its_seam_is_an_error(name):
    """Trap 4: a third of transformers' models do not look their attention up in the table."""
    model = fresh(name)
    tower = find_tower(model)
    with swap_tower(model, {0: Exact(), 1: Exact()}), torch.no_grad():
        attention = tower.specs[1].attention_of(tower.blocks[1])
        vars(attention)["forward"] = lambda x, *_, **__: (x, None) if name == "hf_dinov2" else x
        with pytest.raises(UserError, match=r"block 1 \(\w+\) ran without calling its attention through fna"):
            run(model, images())


def test_hidden_states_can_still_be_asked_for():
    model = zoo("hf_clip")
    with torch.no_grad():
        stock = model(images(), output_hidden_states=True).hidden_states
        with swap_tower(model, {1: Exact()}):
            through = model(images(), output_hidden_states=True).hidden_states
    assert len(through) == len(stock) == 4
    torch.testing.assert_close(through[-1], stock[-1], rtol=1e-5, atol=1e-5)


def test_what_the_seam_does_not_know_is_refused():
    model = fresh("hf_clip")
    attention = find_tower(model).blocks[0].self_attn
    stock = type(attention).forward
    with swap_tower(model, {0: Exact()}):
        vars(attention)["forward"] = lambda *args, **kwargs: stock(attention, *args, softcap=30.0, **kwargs)
        with pytest.raises(UserError, match=r"block 0 \(CLIPAttention\) needs softcap"):
            run(model, images())
        vars(attention).pop("forward")
