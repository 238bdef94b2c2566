"""Each policy against its formula, written down slowly: one row, one head, one entry at a time, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fna.kv.contract import Block, Kept, LayerState, Prompt
from fna.kv.sparsevlm import _share, density_peaks
from tests.kv.models import made

HEADS, GROUPS, WIDTH = 4, 2, 8
N, FIRST, LAST = 40, 4, 30  # columns; the image is FIRST..LAST - 1
IMAGE = list(range(FIRST, LAST))


def state(seed: int = 0, groups: int = GROUPS, sharp: float = 2.0) -> LayerState:
    """The end of a prompt of one row: text, an image, text."""
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(1, HEADS, N, WIDTH, generator=draw) * sharp
    k, v = torch.randn(2, 1, groups, N, WIDTH, generator=draw)
    place = torch.arange(N)[None]
    entries = Kept(k, v, place[:, None].expand(-1, groups, -1))
    prompt = Prompt((place >= FIRST) & (place < LAST), torch.ones_like(place, dtype=torch.bool))
    return LayerState(q, place, entries, prompt, 0, 4, WIDTH**-0.5)


def attention(at: LayerState, head: int, row: int) -> np.ndarray:
    """Softmax weights of one query over all entries before it and itself."""
    group = head // (at.q.shape[1] // at.k.shape[1])
    logits = [float(at.q[0, head, row].double() @ at.k[0, group, j].double()) * at.scale for j in range(row + 1)]
    e = np.exp(np.array(logits) - max(logits))
    return np.concatenate([e / e.sum(), np.zeros(at.k.shape[2] - row - 1)])


def heads_of(at: LayerState, group: int) -> range:
    share = at.q.shape[1] // at.k.shape[1]
    return range(group * share, (group + 1) * share)


def top(scores: Any, among: list[int], count: int) -> set[int]:
    return set(sorted(among, key=lambda j: (-scores[j], j))[:count])


def positions(kept: Kept, group: int) -> list[int]:
    return kept.positions[0, group].tolist()


def text_and(image: set[int]) -> list[int]:
    return sorted({j for j in range(N) if j not in IMAGE} | image)


def test_snapkv() -> None:
    at, window = state(), 6
    kept = made("snapkv", budget=0.5, window=window, pool=5).keep(at)
    for group in range(GROUPS):
        votes = sum(attention(at, head, row) for head in heads_of(at, group) for row in range(N - window, N))[: N - window]
        pooled = [sum(votes[i] for i in range(max(0, j - 2), min(len(votes), j + 3))) / 5 for j in range(len(votes))]
        early = top(pooled, list(range(N - window)), N - len(IMAGE) // 2 - window)
        assert positions(kept, group) == sorted(early | set(range(N - window, N)))


def test_snapkv_pools_over_zeros_at_the_edges() -> None:
    """The golden values of the facts: kernel 5, zeros counted."""
    from torch.nn.functional import avg_pool1d

    found = avg_pool1d(torch.tensor([[0, 0.9, 0, 0, 0, 0.2, 0.5, 0.1, 0, 0]]), 5, 1, 2)[0]
    assert found.tolist() == pytest.approx([0.18, 0.18, 0.18, 0.22, 0.14, 0.16, 0.16, 0.16, 0.12, 0.02], abs=1e-6)


def rows_of(weights: list[list[float]], keys: int) -> torch.Tensor:
    """Queries that give these weights to keys that are the unit vectors."""
    return torch.tensor([[math.log(w) for w in row] + [0.0] * (keys - len(row)) for row in weights])


def test_h2o_on_the_golden_values() -> None:
    """Heavy 2 + recent 2 on six rows, then a seventh."""
    rows = [[1.0], [0.6, 0.4], [0.5, 0.2, 0.3], [0.1, 0.6, 0.1, 0.2], [0.2, 0.1, 0.4, 0.2, 0.1], [0.1, 0.1, 0.1, 0.5, 0.1, 0.1]]
    keys = torch.eye(7)
    place = torch.arange(6)[None]
    prompt = Prompt(torch.ones(1, 6, dtype=torch.bool), torch.ones(1, 6, dtype=torch.bool))
    memo: dict[str, torch.Tensor] = {}
    entries = Kept(keys[None, None, :6], keys[None, None, :6], place[None])
    policy = made("h2o", budget=4, recent=0.5)
    kept = policy.keep(LayerState(rows_of(rows, 7)[None, None], place, entries, prompt, 0, 1, 1.0, 0, memo))
    assert positions(kept, 0) == [0, 1, 4, 5]
    assert memo["scores"][0, 0].tolist() == pytest.approx([2.5, 1.4, 0.2, 0.1], abs=1e-5)
    more = Kept(*(torch.cat([x, keys[None, None, 6:]], 2) for x in (kept.k, kept.v)), torch.tensor([[[0, 1, 4, 5, 6]]]))
    row = torch.zeros(1, 1, 1, 7)
    for key, weight in zip((0, 1, 4, 5, 6), (0.3, 0.1, 0.2, 0.1, 0.3), strict=True):
        row[..., key] = math.log(weight)
    kept = policy.step(LayerState(row, torch.tensor([[6]]), more, prompt, 0, 1, 1.0, 1, memo))
    assert positions(kept, 0) == [0, 1, 5, 6]
    assert memo["scores"][0, 0].tolist() == pytest.approx([2.8, 1.5, 0.2, 0.3], abs=1e-5)


def test_h2o_with_grouped_heads() -> None:
    at = state()
    kept = made("h2o", budget=0.5).keep(at)
    room = N - len(IMAGE) // 2
    for group in range(GROUPS):
        received = sum(attention(at, head, row) for head in heads_of(at, group) for row in range(N))
        recent = set(range(N - room // 2, N))
        assert positions(kept, group) == sorted(recent | top(received, list(range(N - room // 2)), room - room // 2))


def test_streaming_keeps_the_ends_of_the_text_and_the_end_of_the_image() -> None:
    kept = made("streaming", budget=0.25, sinks=2, recent=5).keep(state())
    image = set(IMAGE[len(IMAGE) - round(len(IMAGE) / 4 + 0.01) :])
    assert set(positions(kept, 0)) == {0, 1} | set(range(N - 5, N)) | image


def test_random_is_one_draw_for_all_heads_and_another_for_each_layer_and_seed() -> None:
    at = state()
    kept = made("random_kv", budget=0.5).keep(at)
    assert positions(kept, 0) == positions(kept, 1)
    assert len(positions(kept, 0)) == N - len(IMAGE) // 2
    from dataclasses import replace

    assert positions(made("random_kv", budget=0.5).keep(replace(at, layer=1)), 0) != positions(kept, 0)
    assert positions(made("random_kv", budget=0.5, seed=1).keep(at), 0) != positions(kept, 0)


def farthest(x: np.ndarray, among: list[int], count: int) -> list[int]:
    chosen = [among[0]]
    while len(chosen) < count:
        rest = [j for j in among if j not in chosen]
        chosen.append(max(rest, key=lambda j: (min(((x[j] - x[c]) ** 2).sum() for c in chosen), -j)))
    return sorted(chosen)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_fna_keeps_farthest_keys_with_the_values_that_attend_as_the_image_does(groups: int) -> None:
    at, ridge, count = state(groups=groups), 1e-3, 8
    kept = made("fna", budget=count, ridge=ridge).keep(at)
    q, k, v = (x[0].double().numpy() for x in (at.q, at.k, at.v))
    chosen = farthest(k.mean(0).astype(np.float32), IMAGE, count)
    for group in range(groups):
        assert positions(kept, group) == text_and(set(chosen))
        a = np.concatenate([softmax(at.scale * q[h][chosen] @ k[group][chosen].T) for h in heads_of(at, group)])
        u = np.concatenate([softmax(at.scale * q[h][chosen] @ k[group][IMAGE].T) @ v[group][IMAGE] for h in heads_of(at, group)])
        start = v[group][chosen]
        gram = a.T @ a + (ridge * np.trace(a.T @ a) / count + 1e-12) * np.eye(count)
        expected = start + np.linalg.solve(gram, a.T @ (u - a @ start))
        places = [positions(kept, group).index(j) for j in chosen]
        np.testing.assert_allclose(kept.v[0, group, places].numpy(), expected, atol=2e-4)
        np.testing.assert_allclose(kept.bias[0, group, places].numpy(), math.log(len(IMAGE) / count), atol=1e-6)
        others = [place for place in range(len(positions(kept, group))) if place not in places]
        assert not kept.bias[0, group, others].any()
        assert torch.equal(kept.v[0, group, others], at.v[0, group][torch.tensor(text_and(set()))])


def test_the_multiplicity_bias_makes_up_for_what_is_left_out() -> None:
    """Of what a text query gives to the image as a whole, landmarks that weigh log N/m more get nearly as much."""
    at = state(sharp=0.5)
    mass = {}
    for ladder in ("none", "constant", "fitted_bias"):
        kept = made("fna", budget=6, ladder=ladder, references=40).keep(at)
        logits = at.q[0, 0, -1] @ kept.k[0, 0].T * at.scale + (0 if kept.bias is None else kept.bias[0, 0])
        image = torch.tensor([j in IMAGE for j in positions(kept, 0)])
        mass[ladder] = float(logits.softmax(0)[image].sum())
    true = attention(at, 0, N - 1)[IMAGE].sum()
    assert abs(mass["constant"] - true) < 0.25 * abs(mass["none"] - true)
    assert abs(mass["fitted_bias"] - true) < 0.25 * abs(mass["none"] - true)


def test_attention_matching() -> None:
    at, count, ridge = state(), 6, 0.01
    kept = made("am", budget=count, references=N, ridge=ridge).keep(at)
    q, k, v = (x[0].double().numpy() for x in (at.q, at.k, at.v))
    for group in range(GROUPS):
        mass = np.concatenate([softmax(at.scale * q[h] @ k[group][IMAGE].T) for h in heads_of(at, group)])
        chosen = sorted(top((mass**2).sum(0), list(range(len(IMAGE))), count))
        few, start = mass[:, chosen], math.log(len(IMAGE) / count)
        w = np.full(count, math.exp(start))
        for _ in range(2):
            gradient = few.T @ (few @ w - 1)
            size = (gradient @ gradient) / ((few @ gradient) @ (few @ gradient))
            w = np.clip(w - size * gradient, math.exp(start - 3), math.exp(start + 3))
        weighed = few * w / (few * w).sum(1, keepdims=True)
        prior = v[group][IMAGE][chosen]
        gram = weighed.T @ weighed
        gram += (ridge * np.trace(gram) / count + 1e-12) * np.eye(count)
        values = prior + np.linalg.solve(gram, weighed.T @ (mass @ v[group][IMAGE] - weighed @ prior))
        columns = [IMAGE[c] for c in chosen]
        assert positions(kept, group) == text_and(set(columns))
        places = [positions(kept, group).index(j) for j in columns]
        np.testing.assert_allclose(kept.bias[0, group, places].numpy(), np.log(w), atol=1e-4)
        np.testing.assert_allclose(kept.v[0, group, places].numpy(), values, atol=1e-3)


def last_row(at: LayerState) -> np.ndarray:
    return np.mean([attention(at, head, N - 1) for head in range(HEADS)], 0)


def test_avl_keeps_a_secondary_set_and_attends_to_its_core() -> None:
    at = state()
    policy = made("avl", rate=0.5, compute_rate=0.6, update_interval=3)
    kept = policy.keep(at)
    secondary = top(last_row(at), IMAGE, int(0.5 * len(IMAGE)))
    core = top(last_row(at), sorted(secondary), int(0.4 * len(IMAGE)))
    assert set(positions(kept, 0)) == set(text_and(secondary))
    assert positions(kept, 0)[: kept.parked] == sorted(secondary - core)
    assert positions(kept, 0)[kept.parked :] == text_and(core)


@pytest.mark.parametrize(("rate", "size"), [(0.5, 288), (0.6, 230), (0.7, 172), (0.9, 57)])
def test_avl_sizes_are_those_of_the_release(rate: float, size: int) -> None:
    place = torch.arange(580)[None]
    q, k = torch.zeros(1, 1, 580, 2), torch.zeros(1, 1, 580, 2)
    at = LayerState(q, place, Kept(k, k, place[None]), Prompt(place < 576, place >= 0), 0, 1, 1.0)
    assert made("avl", rate=rate, compute_rate=rate).keep(at).k.shape[2] == size + 4


def test_avl_attends_to_all_that_stays_every_third_forward() -> None:
    from tests.kv.models import llama, padded, question

    seen = []
    from fna.surgery.cache import kept

    inputs, prompt = padded([question(0)])
    with torch.inference_mode(), kept(llama(), made("avl"), prompt=prompt) as cache:
        out = llama()(**inputs, past_key_values=cache, use_cache=True)
        for _ in range(7):
            seen.append(cache.kept[0].parked > 0)
            out = llama()(out.logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True)
    assert seen == [True, True, False, True, True, False, True]


def text_rows(at: LayerState, group: int, row: int) -> np.ndarray:
    """The text's part of one row, mean over the heads of a group."""
    given = np.mean([attention(at, head, row) for head in heads_of(at, group)], 0)
    given[:LAST] = 0
    return given


@pytest.mark.parametrize("rule", ["h2o", "history", "direct"])
def test_avl_text_window(rule: str) -> None:
    at = state()
    kept = made("avl", vision=False, text=rule, text_rate=0.4, text_init=1).keep(at)
    text = list(range(LAST, N))
    room = round(0.6 * len(text))
    for group in range(GROUPS):
        scores, recent = np.zeros(N), 0
        if rule == "h2o":
            scores, recent = sum(text_rows(at, group, row) for row in text), room - int(0.7 * room)
        elif rule == "direct":
            scores = text_rows(at, group, N - 1)
        else:
            recent = room - int(0.5 * room)
            for row in text:
                given = text_rows(at, group, row)
                earlier = given[LAST:row]
                if len(earlier):
                    scores[LAST:row] += earlier - np.quantile(earlier, 0.4)
                scores[row] = given[row]
        late = set(text[len(text) - recent :]) if recent else set()
        stays = late | top(scores, [j for j in text if j not in late], room - recent)
        assert set(positions(kept, group)) == set(range(LAST)) | stays, rule


def block(at: LayerState, layer: int = 2, depth: int = 32) -> Block:
    hidden = torch.randn(1, N, 16, generator=torch.Generator().manual_seed(9))
    there = torch.ones(1, N, dtype=torch.bool)
    return Block(layer, depth, hidden, at.asked, there, at.prompt.image, at.prompt, hidden * 0.5, at, {})


def went_on(stay: Any) -> set[int]:
    return set(stay.mask[0].nonzero()[:, 0].tolist())


def test_fastv() -> None:
    at = state()
    assert made("fastv", budget=0.5).prune(block(at, layer=1)) is None
    stay = made("fastv", budget=0.5).prune(block(at))
    assert went_on(stay) == set(text_and(top(last_row(at), IMAGE, len(IMAGE) // 2)))


def test_pyramiddrop() -> None:
    at = state()
    for layer, share in ((8, 0.5), (16, 0.25), (24, 0.125)):
        stay = made("pyramiddrop").prune(block(at, layer))
        assert went_on(stay) == set(text_and(top(last_row(at), IMAGE, math.floor(share * len(IMAGE) + 0.5)))), layer
    assert made("pyramiddrop").prune(block(at, 9)) is None


def test_dart() -> None:
    at, budget = state(), 15
    here = block(at)
    norms = at.k[0].abs().sum((0, 2)).tolist()
    pivots = sorted(top(norms, IMAGE, 4), key=lambda j: -norms[j])
    words = sorted(top(norms, [j for j in range(N) if j not in IMAGE], 4), key=lambda j: -norms[j])
    x = here.hidden[0].double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    chosen = set(pivots)
    for place, pivot in enumerate([*pivots, *words]):
        quota = 11 * (place + 1) // 8 - 11 * place // 8
        chosen |= top(-(x @ x[pivot]), [j for j in IMAGE if j not in chosen], quota)
    assert went_on(made("dart", budget=budget).prune(here)) == set(text_and(chosen))
    assert len(chosen) == budget


def test_sparsevlm_asks_the_raters() -> None:
    at = state()
    here = block(at, layer=3)
    stay = made("sparsevlm", budget=1 / 3, recycle=False).prune(here)
    x = here.embedded[0].double().numpy()
    words = list(range(LAST, N))
    given = softmax(x[IMAGE] @ x[words].T).mean(0)
    raters = [words[i] for i in range(len(words)) if given[i] > given.mean()]
    rated = np.mean([attention(at, head, row) for head in range(HEADS) for row in raters], 0)
    assert went_on(stay) == set(text_and(top(rated, IMAGE, math.floor(300 / 576 * len(IMAGE) + 0.5))))


def test_sparsevlm_reads_the_released_table() -> None:
    assert [round(576 * _share(192 / 576, stage)) for stage in range(3)] == [300, 200, 110]
    assert [round(576 * _share(64 / 576, stage)) for stage in range(3)] == [66, 30, 17]
    assert _share(1.0, 2) == 1.0
    assert _share(0.9, 2) < _share(0.95, 2) < 1


def test_sparsevlm_recycles_what_goes_into_group_means() -> None:
    at = state()
    here = block(at, layer=3)
    plain = went_on(made("sparsevlm", budget=1 / 6, recycle=False).prune(here))
    stay = made("sparsevlm", budget=1 / 6).prune(here)
    more = went_on(stay) - plain
    gone = len(IMAGE) - len(plain & set(IMAGE))
    members = int(0.3 * gone) + 1
    assert len(more) == members // 10 + 1
    changed = (stay.hidden[0] != here.hidden[0]).any(-1).nonzero()[:, 0].tolist()
    assert set(changed) <= more


def test_density_peaks_find_two_clumps() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(10, 3, generator=draw) * 0.1, torch.randn(6, 3, generator=draw) * 0.1 + 5])
    heads, group = density_peaks(x, 2)
    assert len(set(group[:10].tolist())) == 1
    assert len(set(group[10:].tolist())) == 1
    assert group[0] != group[-1]
    assert sorted(group[heads].tolist()) == [0, 1]
