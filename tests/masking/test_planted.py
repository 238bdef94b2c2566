"""Rules, sink set and strategies on a model whose massive and dormant tokens are known by construction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fna.errors import UserError
from fna.masking.masked import Masked
from fna.masking.rules import Channel, ClsProxy, FixedNorm, LogGap, MeanSigma, Rule, log_gap, make_rule
from fna.masking.sinks import Window, categories, sink_set
from fna.masking.strategy import Masking
from fna.ops.contract import Memo, Site
from fna.ops.exact import Exact
from fna.surgery.lookahead import swap_masked
from fna.surgery.probe import recording
from fna.surgery.swap import swap_tower
from tests.masking.planted import CONTENT, DEPTH, DETECT, SIZE, SUPPRESS, planted_images, planted_model, token_set

MASSIVE = [[17], [3, 200], []]
DORMANT = [[40, 99], [130], []]
IMAGES = planted_images(MASSIVE, DORMANT)
RULES = ["channel", "fixed_norm", "mean_sigma", "massive_activation", "cls_proxy", "incoming"]


@dataclass(frozen=True, eq=False)
class Spy:
    """Exact attention that notes what a rule says in its block, and the stream."""

    notes: dict[int, Any]
    rule: Rule | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        said = None if self.rule is None else self.rule(q, k, site)
        self.notes[site.layer] = (said, site.hidden)
        return Exact()(q, k, v, site)


@dataclass(frozen=True, eq=False)
class Given:
    chosen: Tensor

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        return self.chosen


def judged(rule: Rule, block: int = DETECT, images: Tensor = IMAGES) -> Tensor:
    notes: dict[int, Any] = {}
    model = planted_model()
    with swap_tower(model, {block: Spy(notes, rule)}), torch.inference_mode():
        model(images)
    return notes[block][0]


def sizes(mask: Tensor | None = None) -> Tensor:
    """What has grown after block 2, with some tokens hidden in it: ``[B, N]``."""
    notes: dict[int, Any] = {}
    model = planted_model()
    hide = {} if mask is None else {SUPPRESS: Masked(Exact(), Given(mask))}
    with swap_tower(model, {DETECT: Spy(notes)} | hide), torch.inference_mode():
        model(IMAGES)
    return notes[DETECT][1][..., SIZE]


@pytest.mark.parametrize("name", RULES)
def test_rules_find_exactly_the_planted_tokens(name: str) -> None:
    assert torch.equal(judged(make_rule(name)), token_set(MASSIVE))


@pytest.mark.parametrize("name", ["channel", "fixed_norm", "massive_activation"])
def test_nothing_is_massive_before_the_growth(name: str) -> None:
    """The other rules ask for outliers of any size, and the triggers are some."""
    assert not judged(make_rule(name), SUPPRESS).any()


def test_the_channel_may_be_named() -> None:
    assert torch.equal(judged(Channel(channel=SIZE)), token_set(MASSIVE))
    assert not judged(Channel(channel=CONTENT)).any()
    with pytest.raises(ValueError, match="channels 0 to 15"):
        judged(Channel(channel=16))


def test_log_gap_calibrates_on_the_planted_norms() -> None:
    notes: dict[int, Any] = {}
    model = planted_model()
    with swap_tower(model, {DETECT: Spy(notes)}), torch.inference_mode():
        model(IMAGES)
    threshold = log_gap(notes[DETECT][1].norm(dim=-1)[:, 1:])
    assert 2 < threshold < 200
    assert torch.equal(judged(LogGap(threshold)), token_set(MASSIVE))


def test_mean_sigma_reaches_no_further_than_its_bound() -> None:
    crowd = [list(range(8))]
    images = planted_images(crowd, [[]])
    assert not judged(MeanSigma(7.0), images=images).any()  # 8 of 256 lie 5.6 deviations out
    assert torch.equal(judged(MeanSigma(5.0), images=images), token_set(crowd))


def test_removing_the_massive_wakes_the_dormant() -> None:
    asleep, awake = sizes(), sizes(token_set(MASSIVE))
    grown = token_set(MASSIVE)
    assert (asleep[grown] > 150).all()
    assert (asleep[~grown] < 1).all()
    dormant = token_set(DORMANT)
    assert (awake[dormant] > 500).all()
    assert (awake[~dormant & ~grown] < 1).all()


def test_one_massive_token_left_keeps_them_asleep() -> None:
    one = token_set([[], [3], []])
    assert (sizes(one)[1][token_set(DORMANT)[1]] < 1).all()


def found(strategy: Masking, images: Tensor = IMAGES) -> Memo:
    memos: list[Memo] = []
    model = planted_model()
    with swap_masked(model, {}, strategy, on_end=lambda memo: memos.append(dict(memo))), torch.inference_mode():
        model(images)
    assert len(memos) == 1
    return memos[0]


@pytest.mark.parametrize("mode", ["mask", "sink"])
@pytest.mark.parametrize("blocks", [-1, "0-5", "3", "2-5"])
def test_sink_set_is_massive_then_dormant(mode: str, blocks: str | int) -> None:
    memo = found(Masking(tokens="artifact", mode=mode, blocks=blocks))
    massive, sinks = memo["found", "massive"], memo["found", "sinks"]
    assert torch.equal(massive, token_set(MASSIVE))
    # Sunk instead of masked, a massive token still absorbs its share but writes nothing: the dormant ones wake all the same.
    assert torch.equal(sinks, token_set([a + b for a, b in zip(MASSIVE, DORMANT, strict=True)]))
    order = memo["found", "order"]
    assert order[0, :4].tolist() == [18, 41, 100, -1]
    assert order[1, :4].tolist()[2:] == [131, -1]
    assert (order[2] == -1).all()


def test_the_cap_is_kept() -> None:
    memo = found(Masking(tokens="both", cap=2))
    assert memo["found", "sinks"].sum(1).tolist() == [2, 2, 0]


def test_looking_ahead_finds_what_watching_finds() -> None:
    watched = found(Masking(tokens="massive", blocks=-1))["found", "massive"]
    ahead = found(Masking(tokens="massive", blocks="0-5"))["found", "massive"]
    assert torch.equal(watched, ahead)


def test_looking_ahead_does_not_disturb_the_pass() -> None:
    """With nothing to hide (image 2) the output is that of the untouched model."""
    model = planted_model()
    with torch.inference_mode():
        want = model(IMAGES[2:])
        with swap_masked(model, {}, Masking(blocks="0-5")):
            torch.testing.assert_close(model(IMAGES[2:]), want)
        assert torch.equal(model(IMAGES[2:]), want)


BLIND = FixedNorm(1e9)


@pytest.mark.parametrize("mask", [Masking(tokens="massive", rule=BLIND), Masking(rule=BLIND, detect=4), Masking(detect=4, cap=1)])
def test_seeking_tokens_and_masking_tokens_do_not_meet(mask: Masking) -> None:
    """A mask that finds little, in force while a study seeks: the study's answer and the mask's effect are as without the other."""
    model, seen, shown = planted_model(), [], []

    def last(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        shown.append(site.keys)
        return v

    with torch.inference_mode():
        with swap_masked(model, {DEPTH - 1: last}, mask):
            model(IMAGES)
            with recording(model, seen.append, seek=Masking()):
                model(IMAGES)
        with recording(model, seen.append, seek=Masking()):
            model(IMAGES)
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(seen[0]["massive"], token_set(MASSIVE))
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in ("massive", "sinks", "order"))


def test_categories_are_disjoint_and_complete() -> None:
    memo = found(Masking(tokens="both"))
    kind = categories(memo["found", "massive"], memo["found", "sinks"], Site(1.0).tokens)
    counts = torch.stack([(kind == number).sum(1) for number in range(4)], 1)
    assert counts.tolist() == [[1, 1, 2, 253], [1, 2, 1, 253], [1, 0, 0, 256]]


def test_strategy_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="no such rule; there is channel"):
        Masking(rule="guess")
    with pytest.raises(ValueError, match="massive, artifact, both"):
        Masking(tokens="all")
    with pytest.raises(ValueError, match=r"mask\.cap=0"):
        Masking(cap=0)
    with pytest.raises(UserError, match="first <= detect"):
        Masking(detect=DEPTH).check(DEPTH)
    with pytest.raises(UserError, match=r"mask\.detect=0: no block comes before"):
        Masking(rule="log_gap", detect=0).check(DEPTH)
    Masking(rule="log_gap", detect=0, threshold=7).check(DEPTH)
    assert isinstance(Masking(rule="fixed_norm", threshold=7).judge, FixedNorm)


def test_no_rule_invents_tokens_where_cls_looks_nowhere_in_particular() -> None:
    """Attention that is even but for noise: the authors' bare comparison flags every patch, ours none."""
    generator = torch.Generator().manual_seed(0)
    q, k = 0.1 * torch.randn(2, 4, 2, 197, 64, generator=generator)
    site = Site(scale=0.125, hidden=torch.randn(4, 197, 64, generator=generator))
    assert ClsProxy(least=0, stands=0)(q, k, site).sum() == 4 * 196
    for name in RULES:
        assert make_rule(name)(q, k, site).float().mean() < 0.002, name
    assert log_gap(site.hidden.norm(dim=-1)) == float("inf")


def test_the_even_share_counts_the_tokens_that_stay_small() -> None:
    """Most of the picture blank, attention even but for noise: the few patches that stand out are no sinks."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = 0.1 * torch.randn(3, 2, 2, 197, 64, generator=generator)
    hidden = torch.randn(2, 197, 64, generator=generator)
    hidden[:, 41:] *= 0.1
    memo: Memo = {("found", "hide"): torch.zeros(2, 197, dtype=torch.bool)}
    Window(Exact(), FixedNorm(), detect=0, stands=2.0)(q, k, v, Site(scale=0.125, hidden=hidden, memo=memo))
    memo = {key[1]: answer for key, answer in memo.items() if key[0] == "found"}
    assert memo["grown"][:, 1:].sum(1).tolist() == [40, 40]
    found = sink_set(lambda images, taken: (memo["given"], memo["grown"]), memo["eligible"], factor=0.5, least=4.0)
    assert not found.found.any()
