"""What every KV policy promises, run over every YAML in conf/kv: a new one is tested by its being there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fna.configs import load_option
from fna.kv.contract import Pruning
from fna.surgery.cache import kept
from tests.kv.models import DEPTH, FULL, IMAGE, answer, continued, llama, made, padded, policies, question, stored

NAMES = policies()
PARTS = [
    ("avl", {"prefill_filter": 2, "prefill_filter_rate": 0.5}),
    ("avl", {"vision": False, "text": "h2o", "text_init": 4}),
    ("avl", {"text": "history", "text_init": 4}),
    ("avl", {"text": "direct", "text_init": 4, "prefill_filter": 1}),
    ("fna", {"ladder": "none"}),
    ("fna", {"ladder": "fitted_bias", "references": 16}),
    ("fna", {"ladder": "fitted_values", "references": 16}),
    ("streaming", {"recent": 4}),
    ("h2o", {"budget": 5}),
    ("fna", {"prefill": "landmark", "positions": "renumbered"}),
    ("snapkv", {"positions": "renumbered"}),
    ("pyramiddrop", {"positions": "renumbered"}),
]
CASES: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in NAMES), *PARTS]


@pytest.fixture(params=CASES, ids=[" ".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options in CASES])
def policy(request: pytest.FixtureRequest) -> Any:
    """Each policy at its defaults, and those with parts in some of them."""
    return made(request.param[0], **request.param[1])


MORE = torch.randint(2, 60, (2, 5), generator=torch.Generator().manual_seed(5))


def test_the_policy_none_is_the_stock_model_bit_for_bit() -> None:
    """Nothing is put in its way: the library's own cache, and no attention of ours."""
    inputs, prompt = padded([question(0), question(1)])
    told = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    stock = llama().generate(**inputs, **told)
    ids, logits, cache = answer(llama(), None, inputs, prompt)
    assert torch.equal(ids, stock.sequences[:, inputs["input_ids"].shape[1] :])
    assert torch.equal(logits, torch.stack(stock.logits))
    assert type(cache) is type(stock.past_key_values)
    assert not load_option("kv", "none")  # no policy is what the runner makes of it


@pytest.mark.parametrize("name", NAMES)
def test_a_full_budget_is_the_stock_model(name: str) -> None:
    inputs, prompt = padded([question(0), question(1)])
    ids, logits, _ = answer(llama(), None, inputs, prompt)
    ours, near, cache = answer(llama(), made(name, **FULL), inputs, prompt)
    assert torch.equal(ours, ids)
    torch.testing.assert_close(near, logits, atol=2e-5, rtol=2e-5)
    assert cache.get_seq_length() == inputs["input_ids"].shape[1] + 7


@pytest.mark.parametrize("name", NAMES)
def test_a_full_budget_is_the_stock_model_with_padding_at_the_right(name: str) -> None:
    asked = *padded([question(0), question(1)], "right"), MORE
    ours, stock = continued(llama(), made(name, **FULL), *asked), continued(llama(), None, *asked)
    torch.testing.assert_close(ours, stock, atol=2e-5, rtol=2e-5)


def test_a_row_does_not_depend_on_its_batch_mates_or_its_padding(policy: Any) -> None:
    questions = [question(0), question(1, image=14), question(2)]
    inputs, prompt = padded(questions, more=3)
    together, logits, cache = answer(llama(), policy, inputs, prompt)
    for row, one in enumerate(questions):
        alone, own, other = answer(llama(), policy, *padded([one]))
        assert torch.equal(together[row], alone[0])
        torch.testing.assert_close(logits[:, row], own[:, 0], atol=2e-5, rtol=2e-5)
        shift = inputs["input_ids"].shape[1] - one[0].shape[1]
        for layer in range(DEPTH):
            assert stored(cache, layer, row) == [[place + shift for place in head] for head in stored(other, layer)]


def test_right_padding_is_as_good_as_left(policy: Any) -> None:
    questions = [question(0), question(1)]
    left, right = (continued(llama(), policy, *padded(questions, side), MORE) for side in ("left", "right"))
    torch.testing.assert_close(left, right, atol=2e-5, rtol=2e-5)


def test_fewer_entries_are_stored_and_the_true_length_told(policy: Any) -> None:
    inputs, prompt = padded([question(0)])
    length = inputs["input_ids"].shape[1]
    _, _, cache = answer(llama(), policy, inputs, prompt, max_new_tokens=1)
    assert cache.get_seq_length() == length
    assert sum(cache.lengths) < DEPTH * length
    for layer in range(DEPTH):
        for head in stored(cache, layer):
            parked = cache.kept[layer].parked
            assert head[:parked] == sorted(head[:parked])
            assert head[parked:] == sorted(head[parked:])
            assert len(set(head)) == len(head)
            assert set(head) <= set(range(length))
    # Nothing keeps the dropped ones in memory: what is stored is a copy, not a slice of the whole.
    plain = DEPTH * 2 * length * 2 * 8 * 4
    assert cache.bytes < plain * 1.1


def test_only_the_chosen_layers_change(policy: Any) -> None:
    inputs, prompt = padded([question(0)])
    _, _, cache = answer(llama(), policy, inputs, prompt, layers="2-3", max_new_tokens=1)
    assert cache.lengths[:2] == [inputs["input_ids"].shape[1]] * 2


def test_without_an_image_nothing_is_dropped_from_it(policy: Any) -> None:
    if getattr(policy, "text", "none") != "none" or getattr(policy, "recent", 1.0) == 4:
        pytest.skip("this one prunes text")
    inputs, prompt = padded([question(0, image=0)])
    _, stock, _ = answer(llama(), None, inputs, prompt)
    _, logits, _ = answer(llama(), policy, inputs, prompt)
    torch.testing.assert_close(logits, stock, atol=2e-5, rtol=2e-5)


def test_beams_follow_their_rows(policy: Any) -> None:
    """A beam search over two prompts finds what each prompt's own search finds."""
    questions = [question(0), question(2)]
    together = answer(llama(), policy, *padded(questions), num_beams=3)[0]
    for row, one in enumerate(questions):
        assert torch.equal(together[row], answer(llama(), policy, *padded([one]), num_beams=3)[0][0])


def test_a_second_turn_goes_on(policy: Any) -> None:
    """The turn's words in one forward give what they give one by one, where no policy looks at steps; the cache goes on growing."""
    model = llama()
    inputs, prompt = padded([question(0), question(1)])
    with torch.inference_mode(), kept(model, policy, prompt=prompt) as cache:
        first = model.generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False)
        ids = torch.cat([first, MORE], 1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 9, dtype=torch.long)], 1)
        second = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=4, do_sample=False)
    assert second.shape[1] == ids.shape[1] + 4
    assert cache.get_seq_length() == ids.shape[1] + 3


def test_the_model_is_itself_again_afterwards(policy: Any) -> None:
    model = llama()
    inputs, prompt = padded([question(0)])
    before, config = model(**inputs).logits, model.model.config
    answer(model, policy, inputs, prompt, max_new_tokens=2)
    assert model.model.config is config
    assert all(not block._forward_pre_hooks and not block._forward_hooks for block in model.model.layers)
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(made(name), Pruning)])
def test_logits_of_a_pruned_prompt_lie_in_their_columns(name: str) -> None:
    """What is before the image has seen none of the pruning; the last column is what generation goes on from."""
    inputs, prompt = padded([question(0)])
    stock = llama()(**inputs).logits
    with torch.inference_mode(), kept(llama(), made(name), prompt=prompt) as cache:
        logits = llama()(**inputs, past_key_values=cache, use_cache=True).logits
    assert logits.shape == stock.shape
    torch.testing.assert_close(logits[:, :3], stock[:, :3], atol=1e-5, rtol=1e-5)


def test_as_many_image_tokens_stay_as_the_budget_says() -> None:
    inputs, prompt = padded([question(0)])
    for name in ("fna", "am", "random_kv", "streaming"):
        _, _, cache = answer(llama(), made(name, budget=0.25), inputs, prompt, max_new_tokens=1)
        assert cache.lengths == [inputs["input_ids"].shape[1] - IMAGE + IMAGE // 4] * DEPTH, name
