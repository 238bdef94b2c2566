"""A reducer of somebody's own whose tokens and `Tokens` do not agree is named, with its block, both counts and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fna
from fna.errors import UserError
from fna.ops.contract import Tokens
from fna.ops.exact import Exact
from fna.surgery.reduce import Place
from fna.surgery.variant import Variant
from tests.surgery.zoo import images, run, zoo


@dataclass(frozen=True)
class Dropping:
    """Drops the last token in the first block, and says of what is left what ``say(tokens, count)`` makes."""

    say: Callable[[Tokens, int], Tokens] = lambda tokens, count: tokens

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        if place.layer:
            return x, place.tokens
        return x[:, :-1], self.say(place.tokens, x.shape[1] - 1)


@dataclass(frozen=True)
class Later:
    """Does nothing to one image, which is what the tiny input is."""

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        return (x[:, 1:] if len(x) > 1 and place.layer == 1 else x), place.tokens


def _renumbered(tokens: Tokens, count: int) -> Tokens:
    return replace(tokens, version=tokens.version + 1)


def _unsourced(tokens: Tokens, count: int) -> Tokens:
    return replace(tokens, version=tokens.version + 1, grid=None, sizes=torch.ones(1, count))


def _whole(tokens: Tokens, count: int) -> Tokens:
    source = torch.arange(count + 1).clamp(max=count - 1)[None]
    return replace(_unsourced(tokens, count), source=source)


ODD = [(Dropping(), "its Tokens say 65"), (Dropping(_renumbered), "say 65")]


@pytest.mark.parametrize(("reducer", "said"), ODD)
def test_tokens_that_are_fewer_than_is_said_are_refused_on_the_tiny_input(reducer: Any, said: str) -> None:
    match = rf"^reduce=Dropping \(block 0\): 65 tokens went in and 64 came out, but .*{said}; return new Tokens .*renewed"
    with pytest.raises(UserError, match=match):  # what a run asks before weights are read
        Variant("", {0: Exact()}, reduce=reducer).check(12)
    with pytest.raises(UserError, match=match):
        fna.swap(zoo("timm"), "exact", layers="all", reduce=reducer)
    with pytest.raises(UserError, match=match):
        fna.compare(zoo("timm"), [images()], "exact", reduce=reducer, rounds=0)


@torch.inference_mode()
def test_what_is_not_dropped_from_the_tiny_input_is_refused_at_the_first_pass() -> None:
    model, said = zoo("timm"), r"^reduce=Later \(block 1\): 17 tokens went in and 16 came out, but its Tokens say 17"
    with fna.swap(model, "exact", layers="all", reduce=Later()), pytest.raises(UserError, match=said):
        run(model, images())


@pytest.mark.parametrize("returned", [lambda x, tokens: x, lambda x, tokens: (x, tokens, 1), lambda x, tokens: None])
def test_what_is_no_pair_of_tokens_and_what_they_are_is_refused(returned: Any) -> None:
    def alone(x: Tensor, place: Place) -> Any:
        return returned(x, place.tokens)

    with pytest.raises(UserError, match=r"^reduce=alone \(block 0\): returns \w+; return \(x, tokens\)"):
        fna.swap(zoo("timm"), "exact", layers="all", reduce=alone)


@torch.inference_mode()
def test_tokens_that_say_what_they_are_pass() -> None:
    model = zoo("timm")
    with fna.swap(model, "exact", layers="all", reduce=Dropping(_whole)):
        assert run(model, images(1)).isfinite().all()


@torch.inference_mode()
def test_tokens_without_a_source_pass_until_somebody_asks_for_each_token() -> None:
    model = zoo("timm")
    with fna.swap(model, "exact", layers="all", reduce=Dropping(_unsourced)) as swap:
        assert run(model, images(1)).isfinite().all()
        with pytest.raises(
            UserError, match="reduce=Dropping: each token is asked for, and its Tokens do not say into which one each went"
        ):
            swap.spread(torch.zeros(1, 16, 8))
