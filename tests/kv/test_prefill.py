"""A prompt that attends through landmarks: causal where that is promised, exact for text, each form by its formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fna.errors import UserError
from fna.kv.contract import LayerState
from fna.kv.landmark import LandmarkCache
from fna.kv.prefill import bidirectional_rows, causal_rows
from fna.surgery.cache import kept
from tests.kv.models import DEPTH, FIRST, answer, continued, llama, made, padded, question
from tests.kv.test_oracles import GROUPS, HEADS, IMAGE, WIDTH, N, attention, heads_of, state

CAUSAL, BOTH_WAYS = {"prefill": "landmark"}, {"prefill": "bidirectional"}
MARKS = [4, 9, 10, 17, 25]


@dataclass(frozen=True)
class Fixed(LandmarkCache):
    """Landmarks at the same columns whatever the keys are."""

    def _landmarks(self, state: LayerState) -> Tensor:
        return state.image & (torch.arange(state.k.shape[2]) % 5 == 0)


@torch.inference_mode()
def logits(policy: Any, ids: Tensor, prompt: Any) -> Tensor:
    with kept(llama(), policy, prompt=prompt) as cache:
        return llama()(ids, past_key_values=cache, use_cache=True).logits[0]


@pytest.mark.parametrize("changed", [8, 20, FIRST + 24 + 4])
def test_with_fixed_landmarks_no_position_sees_a_later_token(changed: int) -> None:
    """Whether the later token is one of the image's or of the text's."""
    inputs, prompt = padded([question(0)])
    other = inputs["input_ids"].clone()
    other[0, changed] = (other[0, changed] + 7) % 50 + 2
    one, two = (logits(Fixed(prefill="landmark"), ids, prompt) for ids in (inputs["input_ids"], other))
    assert torch.equal(one[:changed], two[:changed])
    assert not torch.allclose(one[changed:], two[changed:], atol=1e-3)


def test_the_papers_form_sees_later_tokens() -> None:
    inputs, prompt = padded([question(0)])
    other = inputs["input_ids"].clone()
    other[0, -1] = (other[0, -1] + 7) % 50 + 2
    one, two = (logits(Fixed(prefill="bidirectional"), ids, prompt) for ids in (inputs["input_ids"], other))
    assert not torch.allclose(one[:FIRST], two[:FIRST], atol=1e-3)


def chosen() -> Tensor:
    mask = torch.zeros(1, GROUPS, N, dtype=torch.bool)
    mask[..., MARKS] = True
    return mask


def soft(logits: list[float]) -> np.ndarray:
    e = np.exp(np.array(logits) - max(logits))
    return e / e.sum()


def test_the_causal_form_is_its_formula() -> None:
    """One head a group: v~ from the top down, then text, landmarks with log(n / j), and the window."""
    at, damping = state(groups=HEADS), 0.1
    found = causal_rows(at, chosen()[:, :1].expand(-1, HEADS, -1), damping, biased=True)[0]
    for head in range(HEADS):
        q, k, v = (x[0, head].double().numpy() for x in (at.q, at.k, at.v))
        values: list[np.ndarray] = []
        for a, mark in enumerate(MARKS):
            image = [j for j in IMAGE if j <= mark]
            u = soft([q[mark] @ k[j] * at.scale for j in image]) @ v[image]
            row = soft([q[mark] @ k[j] * at.scale for j in MARKS[: a + 1]])
            left, own = u - sum(row[b] * values[b] for b in range(a)), damping / (a + 1) ** 2
            values.append((row[a] * left + own * v[mark]) / (row[a] ** 2 + own))
        for t in IMAGE:
            before = [p for p in MARKS if p <= t]
            text = [j for j in range(t) if j not in IMAGE]
            near = [j for j in IMAGE if before[-1] < j <= t]
            bias = np.log((before[-1] - IMAGE[0] + 1) / len(before))
            logit = [q[t] @ k[j] * at.scale for j in text] + [q[t] @ k[p] * at.scale + bias for p in before]
            weights = soft(logit + [q[t] @ k[j] * at.scale for j in near])
            held = np.stack([*v[text], *values[: len(before)], *v[near]])
            np.testing.assert_allclose(found[head, t].numpy(), weights @ held, rtol=1e-4, atol=1e-5)


def test_text_attends_exactly_in_the_causal_form() -> None:
    at = state()
    found = causal_rows(at, chosen(), 0.1, biased=True)[0]
    for group in range(GROUPS):
        for head in heads_of(at, group):
            for row in [0, 3, 30, N - 1]:
                exact = attention(at, head, row) @ at.v[0, group].double().numpy()
                np.testing.assert_allclose(found[head, row].numpy(), exact, rtol=1e-4, atol=1e-5)


def test_where_attention_is_even_a_landmark_stands_for_its_stretch() -> None:
    """All keys alike: v~ is the mean value of the image tokens from the landmark before up to it, times its share."""
    from dataclasses import replace

    from fna.kv.prefill import causal_values

    at = state()
    entries = replace(at.entries, k=torch.zeros_like(at.k))
    marks = torch.tensor([[7, 11, 15]])
    found = causal_values(replace(at, entries=entries), marks, torch.ones_like(marks, dtype=torch.bool), 1e-6)
    for row, (first, last) in enumerate([(4, 7), (8, 11), (12, 15)]):
        torch.testing.assert_close(found[0, :, row], at.v[0, :, first : last + 1].mean(1), atol=1e-3, rtol=1e-3)


def test_the_bidirectional_form_with_all_tokens_as_landmarks_is_full_attention_without_causality() -> None:
    at = state(sharp=0.3)
    found = bidirectional_rows(at, at.image)[0]
    k, v = (x[0].repeat_interleave(HEADS // GROUPS, 0) for x in (at.k, at.v))
    exact = (at.q[0] @ k.mT * WIDTH**-0.5).softmax(-1) @ v
    assert (found - exact).norm() / exact.norm() < 0.15  # its inverse is truncated


@pytest.mark.parametrize("options", [CAUSAL, BOTH_WAYS], ids=["landmark", "bidirectional"])
def test_a_row_does_not_depend_on_its_batch_mates_or_its_padding(options: dict[str, Any]) -> None:
    questions = [question(0), question(1, image=14), question(2)]
    policy = made("fna", **options)
    for side in ("left", "right"):
        together = continued(llama(), policy, *padded(questions, side, more=3), torch.tensor([[5, 6]] * 3))
        for row, one in enumerate(questions):
            alone = continued(llama(), policy, *padded([one]), torch.tensor([[5, 6]]))
            torch.testing.assert_close(together[row], alone[0], atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("options", [CAUSAL, BOTH_WAYS], ids=["landmark", "bidirectional"])
def test_a_full_budget_is_the_stock_model_and_no_image_too(options: dict[str, Any]) -> None:
    for asked in (padded([question(0), question(1)]), padded([question(0, image=0)])):
        stock = answer(llama(), None, *asked)
        ours = answer(llama(), made("fna", budget=1.0, **options), *asked)
        torch.testing.assert_close(ours[1], stock[1], atol=2e-5, rtol=2e-5)


def test_a_prompt_in_chunks_is_refused() -> None:
    inputs, prompt = padded([question(0)])
    with pytest.raises(UserError, match="prefill_chunk_size"):
        answer(llama(), made("fna", **CAUSAL), inputs, prompt, prefill_chunk_size=16)


def test_blocks_that_are_not_chosen_keep_everything() -> None:
    policy = made("fna", layers="2-3")
    assert policy.layers == "2-3"
    inputs, prompt = padded([question(0)])
    _, _, cache = answer(llama(), policy, inputs, prompt, layers=policy.layers, max_new_tokens=1)
    length = inputs["input_ids"].shape[1]
    assert cache.lengths == [length] * 2 + [length - 18] * (DEPTH - 2)
    with pytest.raises(UserError, match=r"kv\.layers=2-9"):
        answer(llama(), policy, inputs, prompt, layers="2-9")
