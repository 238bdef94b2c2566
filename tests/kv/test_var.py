"""VAR: sinks give what they draw to the rest of the image, in heads that are about it, while the prompt is read and answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fna.errors import UserError
from fna.kv.contract import LayerState
from fna.surgery.cache import kept
from tests.kv.models import DEPTH, answer, continued, llama, made, padded, question

MORE = torch.randint(2, 60, (2, 5), generator=torch.Generator().manual_seed(5))
# Of a random model 32 wide: many tokens with a channel above 1.5, and heads that give the image a little.
LOW: dict[str, Any] = {"tau": 1.5, "rho": 0.6, "least": 0.1, "p": 0.4}


class Spy:
    """The policy, and what it was shown and gave in each block and forward."""

    version: ClassVar[int] = 1
    sees_hidden: ClassVar[bool] = True

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.seen: list[tuple[LayerState, Tensor | None]] = []

    def attend(self, state: LayerState) -> Tensor | None:
        out = self.policy.attend(state)
        self.seen.append((replace(state, memo={}), out))
        return out


def sinks(hidden: np.ndarray, channels: np.ndarray, tau: float) -> np.ndarray:
    """Which rows of ``hidden`` ``[N, D]`` are sinks."""
    size = np.abs(hidden) / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6)
    return (size[:, channels] > tau).any(-1)


def moved(row: np.ndarray, sink: np.ndarray, image: np.ndarray) -> np.ndarray:
    """One head's weights of one query, by the formula, token by token."""
    visual = sum(w for w, i in zip(row, image, strict=True) if i)
    drawn = sum(w for w, s, i in zip(row, sink, image, strict=True) if s and i)
    if not (sink & image).any() or visual < LOW["least"] or drawn / visual > LOW["rho"]:
        return row
    freed = sum((1 - LOW["p"]) * w for w, s in zip(row, sink, strict=True) if s)
    rest = visual - drawn
    return np.array([LOW["p"] * w if s else w + freed * w / rest if i else w for w, s, i in zip(row, sink, image, strict=True)])


def test_it_is_its_formula_in_the_prompt_and_in_every_step() -> None:
    ids, image = question(0)
    inputs, prompt = padded([(ids, image)])
    spy = Spy(made("var", **LOW))
    answer(llama(), spy, inputs, prompt, max_new_tokens=3)
    assert [state.layer for state, _ in spy.seen] == list(range(DEPTH)) * 3
    assert all((out is not None) == (state.layer == 2) for state, out in spy.seen)
    hidden, known, changed = np.zeros((0, 32)), None, 0
    for state, out in (both for both in spy.seen if both[0].layer == 2):
        assert state.hidden is not None
        hidden = np.concatenate([hidden, state.hidden[0].double().numpy()])
        if known is None:
            known = np.abs(hidden[0]) / np.sqrt((hidden[0] ** 2).mean() + 1e-6) > LOW["tau"]
        sink = sinks(hidden, known, LOW["tau"])
        pictured = np.zeros(len(sink), bool)
        pictured[: image.shape[1]] = image[0].numpy()
        q, k, v = (x[0].double().numpy() for x in (state.q, state.k, state.v))
        for head in range(len(q)):
            for place in range(q.shape[1]):
                at = len(sink) - q.shape[1] + place
                logits = q[head, place] @ k[head // 2, : at + 1].T * state.scale
                row = np.exp(logits - logits.max())
                row /= row.sum()
                if at > image[0].nonzero().max():
                    new = moved(row, sink[: at + 1], pictured[: at + 1])
                    changed += not np.allclose(new, row)
                    assert new.sum() == pytest.approx(1)
                    row = new
                assert out is not None
                np.testing.assert_allclose(out[0, head, place], row @ v[head // 2, : at + 1], atol=2e-5)
    assert changed > 10


def test_what_keeps_all_and_what_finds_no_sink_is_the_stock_model() -> None:
    inputs, prompt = padded([question(0), question(1)])
    stock = answer(llama(), None, inputs, prompt)
    torch.testing.assert_close(answer(llama(), made("var", **LOW | {"p": 1.0}), inputs, prompt)[1], stock[1], atol=2e-5, rtol=2e-5)
    published = answer(llama(), made("var"), inputs, prompt)  # no channel of 32 can be 20 times the root mean square
    assert torch.equal(published[1], stock[1])
    assert not torch.allclose(answer(llama(), made("var", **LOW), inputs, prompt)[1], stock[1], atol=1e-3)
    without = padded([question(0, image=0)])
    same = answer(llama(), None, *without)
    torch.testing.assert_close(answer(llama(), made("var", **LOW), *without)[1], same[1], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_does_not_depend_on_its_batch_mates_or_its_padding(side: str) -> None:
    questions = [question(0), question(1, image=14)]
    together = continued(llama(), made("var", **LOW), *padded(questions, side, more=3), MORE)
    for row, one in enumerate(questions):
        alone = continued(llama(), made("var", **LOW), *padded([one]), MORE[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=2e-5, rtol=2e-5)


def test_beams_follow_their_rows_and_the_model_is_itself_again() -> None:
    policy, questions = made("var", **LOW), [question(0), question(2)]
    together = answer(llama(), policy, *padded(questions), num_beams=3)[0]
    for row, one in enumerate(questions):
        assert torch.equal(together[row], answer(llama(), policy, *padded([one]), num_beams=3)[0][0])
    assert all(not block._forward_pre_hooks for block in llama().model.layers)


def test_channels_of_a_base_model_can_be_given() -> None:
    ids, image = question(0)
    inputs, prompt = padded([(ids, image)])
    spy = Spy(made("var", **LOW))
    answer(llama(), spy, inputs, prompt, max_new_tokens=1)
    first = next(state.hidden[0, 0] for state, out in spy.seen if out is not None and state.hidden is not None)
    found = ((first * first.square().mean().rsqrt()).abs() > LOW["tau"]).nonzero()[:, 0].tolist()
    given = answer(llama(), made("var", **LOW, channels=found), inputs, prompt)
    torch.testing.assert_close(given[1], answer(llama(), made("var", **LOW), inputs, prompt)[1])


def test_channels_that_a_decoder_has_not_are_refused() -> None:
    """Those of Llama 2 7B on a small decoder: no channel was ever looked at, and the run said that quality stays as it is."""
    inputs, prompt = padded([question(0)])
    width = llama().config.hidden_size
    with pytest.raises(
        UserError, match=rf"kv.channels=\[0, {width}\]: this decoder is {width} wide; give some of 0 to {width - 1}"
    ):
        answer(llama(), made("var", **LOW, channels=[0, width]), inputs, prompt)


def test_a_prompt_in_which_nothing_was_changed_is_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    """At the published tau a decoder narrower than 400 can have no sinks: its answers are those of full attention."""
    inputs, prompt = padded([question(0)])
    answer(llama(), made("var", **LOW), inputs, prompt)
    answer(llama(), made("streaming", budget=4), inputs, prompt)
    assert not [one for one in recwarn if "nothing to change" in str(one.message)]
    with pytest.warns(UserWarning, match="Redistribution found nothing to change in a prompt, which was answered as under full"):
        answer(llama(), made("var"), inputs, prompt)


def test_a_prompt_in_chunks_is_refused() -> None:
    inputs, prompt = padded([question(0)])
    with pytest.raises(UserError, match="prefill_chunk_size"), kept(llama(), made("var", **LOW), prompt=prompt) as cache:
        llama().generate(**inputs, past_key_values=cache, max_new_tokens=2, prefill_chunk_size=16)
