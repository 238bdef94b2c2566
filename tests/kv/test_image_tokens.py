"""Each policy in front of the decoder does what its formula says, image by image, and leaves positions as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fna.errors import UserError
from fna.kv.apet import ApET
from fna.kv.cdpruner import CDPruner
from fna.kv.divprune import DivPrune
from fna.kv.image_tokens import ImageTokens, centres, smaller_grid
from fna.kv.pool import Pool
from fna.kv.prumerge import PruMerge
from fna.kv.random import RandomTokens
from fna.kv.resize import ResizedImage
from fna.kv.visionzip import VisionZip
from fna.kv.vispruner import VisPruner
from fna.surgery.cache import kept, read_prompt
from tests.kv.eyes import GRID, IMAGE, llava, llava_next, one, prompts, tiled
from tests.kv.models import made

COUNT = 12  # of 36
POLICIES = (RandomTokens, Pool, ResizedImage, DivPrune, CDPruner, VisionZip, VisPruner, PruMerge, ApET)


class Seen:
    """What a tower that gives all of its attention maps saw of one image."""

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        model = llava()
        tower = model.model.vision_tower
        before = tower.config._attn_implementation
        tower.set_attn_implementation("eager")
        out = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
        tower.set_attn_implementation(before)
        self.features = out.hidden_states[-2][0, 1:]
        self.maps = [a[0] for a in out.attentions]  # [H, N, N]
        self.layers = tower.encoder.layers
        self.states = out.hidden_states
        self.hidden = model.model.multi_modal_projector(self.features[None])[0]
        ids = inputs["input_ids"][0]
        last = int((ids == IMAGE).nonzero()[-1])
        self.text = model.model.language_model.embed_tokens(ids[last + 1 :])

    def keys(self, block: int) -> Tensor:
        """``[patches, width]``."""
        layer = self.layers[block]
        return layer.self_attn.k_proj(layer.layer_norm1(self.states[block - 1][0, 1:]))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def by_random(seen: Seen) -> tuple[list[int], Tensor]:
    from fna.ops.seeded import uniform

    index = sorted(uniform((36,), "kv", 0, 36).argsort().tolist()[:COUNT])
    return index, seen.hidden[index]


def by_pooling(seen: Seen) -> tuple[list[int], Tensor]:
    cells = (3, 4)
    index, means = [], []
    for r in range(3):
        for c in range(4):
            rows, columns = range(2 * r, 2 * r + 2), range(c * 6 // 4, -(-(c + 1) * 6 // 4))
            index.append(6 * (2 * r + 1) + (2 * c + 1) * 6 // 8)
            means.append(torch.stack([seen.hidden[6 * y + x] for y in rows for x in columns]).mean(0))
    assert smaller_grid(GRID, COUNT) == cells
    return index, torch.stack(means)


def by_diversity(seen: Seen) -> tuple[list[int], Tensor]:
    far = [[1 - cosine(a, b) for b in seen.hidden] for a in seen.hidden]
    nearest = [min(d for j, d in enumerate(row) if j != i) for i, row in enumerate(far)]
    chosen = [max(range(36), key=lambda i: nearest[i])]
    while len(chosen) < COUNT:
        left = [i for i in range(36) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(far[i][j] for j in chosen)))
    return sorted(chosen), seen.hidden[sorted(chosen)]


def by_determinant(seen: Seen) -> tuple[list[int], Tensor]:
    relevance = torch.stack([torch.tensor([cosine(h, t) for t in seen.text]).mean() for h in seen.hidden])
    relevance = ((relevance - relevance.min()) / (relevance.max() - relevance.min())).clamp_min(1e-6)
    unit = F.normalize(seen.hidden, dim=-1)
    kernel = (relevance[:, None] * (unit @ unit.T) * relevance).double()
    chosen: list[int] = []
    while len(chosen) < COUNT:
        left = [i for i in range(36) if i not in chosen]
        chosen.append(max(left, key=lambda i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]]))))
    return sorted(chosen), seen.hidden[sorted(chosen)]


def by_zip(seen: Seen) -> tuple[list[int], Tensor]:
    score = seen.maps[-2][:, 0, 1:].sum(0).tolist()
    first = sorted(sorted(range(36), key=lambda i: -score[i])[:10])
    left = [i for i in range(36) if i not in first]
    goals = [left[0], left[len(left) // 2]]
    metric = seen.keys(-2).unflatten(-1, (2, -1)).mean(1)
    joined: dict[int, list[int]] = {goal: [] for goal in goals}
    for i in left:
        if i not in goals:
            joined[max(goals, key=lambda goal: cosine(metric[i], metric[goal]))].append(i)
    new = {i: seen.features[i] for i in first}
    for goal, others in joined.items():
        new[goal] = seen.features[goal] + (seen.features[others].mean(0) if others else 0)
    index = sorted(new)
    return index, llava().model.multi_modal_projector(torch.stack([new[i] for i in index])[None])[0]


def by_vispruner(seen: Seen) -> tuple[list[int], Tensor]:
    score = seen.maps[-2][:, 0, 1:].mean(0).tolist()
    first = sorted(range(36), key=lambda i: -score[i])[:6]
    left = [i for i in range(36) if i not in first]
    while len(left) > 6:
        even, odd = left[::2], left[1::2]
        likest = {i: max(cosine(seen.features[i], seen.features[j]) for j in odd) for i in even}
        drop = sorted(even, key=lambda i: -likest[i])[: min(8, len(left) - 6)]
        left = [i for i in left if i not in drop]
    index = sorted(first + left)
    return index, seen.hidden[index]


def by_merging(seen: Seen) -> tuple[list[int], Tensor]:
    layer = seen.layers[-1]
    x = layer.layer_norm1(seen.states[-2][0])
    q, k = layer.self_attn.q_proj(x), layer.self_attn.k_proj(x)
    weight = (q[0] @ k.T * q.shape[-1] ** -0.5).softmax(0)[1:]
    index = sorted(sorted(range(36), key=lambda i: -float(weight[i]))[: COUNT - 1])
    keys = k[1:]
    new = []
    for i in index:
        near = sorted((j for j in range(36) if j != i), key=lambda j: -cosine(keys[i], keys[j]))[:32]
        new.append(seen.features[i] + sum(weight[j] * seen.features[j] for j in near))
    left = [i for i in range(36) if i not in index]
    index.append(left[-1])
    new.append(sum(weight[i] * seen.features[i] for i in left))
    order = sorted(range(COUNT), key=lambda place: index[place])
    made = llava().model.multi_modal_projector(torch.stack(new)[None])[0]
    return [index[place] for place in order], made[order]


def by_error(seen: Seen) -> tuple[list[int], Tensor]:
    x = seen.features
    basis = [0]
    while len(basis) < 10:
        basis.append(max(range(36), key=lambda i: min(float((x[i] - x[j]).square().sum()) for j in basis)))
    z = x[basis].double()
    best = x.double() @ z.T @ torch.linalg.inv(z @ z.T + 1e-5 * torch.eye(10)) @ z
    error = (x.double() - best).norm(dim=1).tolist()
    worst = sorted((i for i in range(36) if i not in basis), key=lambda i: -error[i])[: COUNT - 10]
    groups = {i: [x[i]] for i in worst}
    for i in range(36):
        if i not in worst and i not in basis:
            groups[max(worst, key=lambda w: cosine(x[i], x[w]))].append(x[i])
    new = {i: torch.stack(group).mean(0) for i, group in groups.items()} | {i: x[i] for i in basis}
    index = sorted(new)
    return index, llava().model.multi_modal_projector(torch.stack([new[i] for i in index])[None])[0]


ORACLES: dict[type[ImageTokens], Callable[[Seen], tuple[list[int], Tensor]]] = {
    RandomTokens: by_random,
    Pool: by_pooling,
    DivPrune: by_diversity,
    CDPruner: by_determinant,
    VisionZip: by_zip,
    VisPruner: by_vispruner,
    PruMerge: by_merging,
    ApET: by_error,
}


def logits(inputs: dict[str, Tensor], policy: Any, model: Any = None) -> tuple[Tensor, Any]:
    """Of the last column ``[B, words]``, and the cache."""
    model = model or llava()
    with torch.no_grad(), kept(model, policy, prompt=read_prompt(model, **inputs)) as cache:
        return model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1], cache


@pytest.mark.parametrize("policy", ORACLES, ids=lambda policy: policy.__name__)
@torch.no_grad()
def test_what_is_kept_is_what_the_formula_says(policy: type[ImageTokens]) -> None:
    """The decoder is run by hand on the columns and states that a slow oracle gives, at the columns' own positions."""
    inputs = one(prompts(), 0)
    index, hidden = ORACLES[policy](Seen(inputs))
    model = llava()
    ids = inputs["input_ids"][0]
    image = (ids == IMAGE).nonzero()[:, 0]
    embedded = model.model.language_model.embed_tokens(ids)
    embedded[image[index]] = hidden
    columns = torch.tensor(sorted(set(range(len(ids))) - set(image.tolist()) | set(image[index].tolist())))
    state = model.model.language_model(inputs_embeds=embedded[columns][None], position_ids=columns[None]).last_hidden_state
    found, cache = logits(inputs, policy(budget=COUNT))
    assert cache.kept[0].entries.positions[0, 0].tolist() == columns.tolist()
    torch.testing.assert_close(found, model.lm_head(state[:, -1]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_smaller_image_is_what_the_tower_makes_of_fewer_pixels() -> None:
    inputs = one(prompts(), 0)
    model = llava()
    small = F.interpolate(inputs["pixel_values"], (12, 16), mode="bilinear", antialias=True)
    tower = model.model.vision_tower(small, interpolate_pos_encoding=True, output_hidden_states=True)
    hidden = model.model.multi_modal_projector(tower.hidden_states[-2][:, 1:])[0]
    ids = inputs["input_ids"][0]
    image = (ids == IMAGE).nonzero()[:, 0]
    index = centres(GRID, (3, 4))
    embedded = model.model.language_model.embed_tokens(ids)
    embedded[image[index]] = hidden
    columns = torch.tensor(sorted(set(range(len(ids))) - set(image.tolist()) | set(image[index].tolist())))
    state = model.model.language_model(inputs_embeds=embedded[columns][None], position_ids=columns[None]).last_hidden_state
    found, _ = logits(inputs, ResizedImage(budget=COUNT))
    torch.testing.assert_close(found, model.lm_head(state[:, -1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_nothing_depends_on_batch_mates_or_padding(policy: type[ImageTokens]) -> None:
    inputs = prompts(3)
    together, cache = logits(inputs, policy(budget=0.3))
    alone = torch.cat([logits(one(inputs, row), policy(budget=0.3))[0] for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert max(cache.lengths) < inputs["input_ids"].shape[1] - 20


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_full_budget_is_the_model_itself(policy: type[ImageTokens]) -> None:
    inputs = prompts()
    with torch.no_grad():
        stock = llava()(**inputs).logits[:, -1]
    torch.testing.assert_close(logits(inputs, policy(budget=1.0))[0], stock, rtol=0, atol=0)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_the_model_is_given_back_as_it_was(policy: type[ImageTokens]) -> None:
    inputs = prompts()
    with torch.no_grad():
        before = llava()(**inputs).logits
        logits(inputs, policy(budget=0.25))
        torch.testing.assert_close(llava()(**inputs).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("policy", [p for p in POLICIES if p is not ResizedImage], ids=lambda policy: policy.__name__)
def test_tiles_and_newlines_are_tokens_like_others(policy: type[ImageTokens]) -> None:
    inputs = tiled()
    _, cache = logits(inputs, policy(budget=0.25), llava_next())
    tokens = int((inputs["input_ids"] == IMAGE).sum())
    positions = cache.kept[0].entries.positions[0, 0]
    assert bool((positions.diff() > 0).all())
    assert len(positions) == pytest.approx(inputs["input_ids"].shape[1] - tokens + tokens / 4, abs=1)


@torch.no_grad()
def test_attention_of_tiles_stands_where_their_patches_stand() -> None:
    """Scores are put together as the model puts features together: told by the features themselves."""
    from contextlib import ExitStack

    from fna.surgery.sight import Sight

    model = llava_next()
    inputs = tiled()
    with ExitStack() as undo:
        sight = Sight(model)
        sight.install(undo)
        image = torch.cat(model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output)
        patch = sight.features().abs().sum(1) > 0
        torch.testing.assert_close(sight.project(sight.features()[patch]), image[patch])
        assert int((~patch).sum()) == GRID[0]
        assert bool(((sight.attention(-1).sum(1) > 0) == patch).all())


def test_tiles_cannot_be_shown_smaller() -> None:
    with pytest.raises(UserError) as refused:
        logits(tiled(), ResizedImage(budget=0.25), llava_next())
    assert str(refused.value) == (
        "kv=resize: LlavaNextModel has no tower of one grid whose positions transformers resamples; take kv=pool instead."
    )


@pytest.mark.parametrize("budget", [0, -1, 1.5, True])
def test_a_budget_that_is_none_is_refused(budget: float) -> None:
    with pytest.raises(UserError, match="budget="):
        made("pool", budget=budget)


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(UserError, match="there are only 36 tokens"):
        logits(prompts(), Pool(budget=37))


@pytest.mark.parametrize(("count", "cells"), [(324, (18, 18)), (162, (12, 13)), (81, (9, 9)), (40, (5, 8)), (1, (1, 1))])
def test_a_coarser_grid_is_as_square_as_the_budget_lets_it(count: int, cells: tuple[int, int]) -> None:
    found = smaller_grid((18, 18), count)
    assert found in (cells, cells[::-1])
