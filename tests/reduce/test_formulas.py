"""Each reducer against a slow reading of its formula, in the first block and on tokens that were merged before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fna.ops.contract import Site, Tokens
from fna.ops.spread import spread
from fna.reduce.atc import ATC
from fna.reduce.cubist import Cubist
from fna.reduce.evit import EViT
from fna.reduce.pitome import PiToMe
from fna.reduce.random_drop import RandomDrop
from fna.reduce.tofu import ToFu
from fna.reduce.tome import ToMe
from fna.surgery.forward import Call
from fna.surgery.reduce import Place, Reducer
from tests.reduce import reference
from tests.reduce.reference import Token

DEPTH = 12
Slow = Callable[[list[Token], int], list[Token]]


def place(layer: int, tokens: Tokens, count: int, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Place:
    """A block whose attention was called with random q and k of two heads."""
    generator = torch.Generator().manual_seed(seed + 31 * layer)
    q, k = torch.randn(2, batch, 2, count, 8, generator=generator).to(dtype)
    return Place(layer, DEPTH, tokens, {}, Call(q, k, Site(scale=0.5, layer=layer, tokens=tokens)))


def features(batch: int, count: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, count, 6, generator=torch.Generator().manual_seed(seed))


def read(x: Tensor, where: Place, image: int) -> list[Token]:
    """What ``where`` holds of one image, for the slow reading."""
    keys = where.keys()[image].double().numpy()
    given = where.cls_gives()[image].double().numpy() if where.tokens.prefix else np.zeros(len(keys))
    source = where.tokens.source
    members = [[i] for i in range(len(keys))]
    if source is not None:
        members = [(source[image] == i).nonzero()[:, 0].tolist() for i in range(len(keys))]
    return [
        Token(row, key, group, float(weight))
        for row, key, group, weight in zip(x[image].double().numpy(), keys, members, given, strict=True)
    ]


CASES: dict[str, tuple[Reducer, Slow, tuple[int, int]]] = {
    "tome": (ToMe(r=3), lambda tokens, prefix: reference.tome(tokens, prefix, 3), (3, 6)),
    "tome_all": (ToMe(r=500), lambda tokens, prefix: reference.tome(tokens, prefix, 500), (0, 1)),
    "pitome": (PiToMe(keep=0.8), lambda tokens, prefix: reference.pitome(tokens, prefix, 0.8, 0.75 * 3 / 12, False), (9, 9)),
    "pitome_early": (PiToMe(keep=0.8), lambda tokens, prefix: reference.pitome(tokens, prefix, 0.8, 0.75 * 9 / 12, True), (3, 3)),
    "tofu_prune": (ToFu(keep=0.8), lambda tokens, prefix: reference.tofu(tokens, prefix, 0.8, True), (3, 6)),
    "tofu_merge": (ToFu(keep=0.8), lambda tokens, prefix: reference.tofu(tokens, prefix, 0.8, False), (7, 9)),
    "evit": (EViT(keep=0.6), lambda tokens, prefix: reference.evit(tokens, prefix, 0.6, True), (3, 6)),
    "evit_sum": (EViT(keep=0.6, normalise=False), lambda tokens, prefix: reference.evit(tokens, prefix, 0.6, False), (3, 6)),
    "atc": (ATC(keep=0.6), lambda tokens, prefix: reference.atc(tokens, prefix, 0.6), (3, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("prefix", [1, 3, 0])
def test_a_slow_reading_says_the_same(name: str, prefix: int) -> None:
    reducer, slow, layers = CASES[name]
    if prefix == 0 and "evit" in name:
        pytest.skip("needs a CLS")
    count = prefix + 20
    x, tokens = features(2, count), Tokens(prefix, grid=(4, 5))
    for layer in layers:  # the second time on what the first has left
        where = place(layer, tokens, x.shape[1])
        expected = [slow(read(x, where, image), prefix) for image in range(len(x))]
        x, tokens = reducer(x, where)
        check(x, tokens, expected, count)


@pytest.mark.parametrize("grid", [(4, 5), (5, 4), (6, 6), (7, 3)])
@pytest.mark.parametrize("prefix", [1, 0])
def test_cubist_merges_line_by_line_and_keeps_a_grid(grid: tuple[int, int], prefix: int) -> None:
    count = prefix + grid[0] * grid[1]
    x, tokens = features(2, count), Tokens(prefix, grid=grid)
    for layer in (3, 6):
        where = place(layer, tokens, x.shape[1])
        assert tokens.grid is not None
        expected = [reference.cubist(read(x, where, image), prefix, tokens.grid, 0.75) for image in range(len(x))]
        x, tokens = Cubist(keep=0.75)(x, where)
        assert tokens.grid is not None
        assert x.shape[1] == prefix + tokens.grid[0] * tokens.grid[1]
        check(x, tokens, expected, count)


def check(x: Tensor, tokens: Tokens, expected: list[list[Token]], count: int) -> None:
    """The features, whom each stands for, its size, and the bias made of that."""
    assert tokens.source is not None
    assert tokens.sizes is not None
    for image, slow in enumerate(expected):
        assert x.shape[1] == len(slow)
        np.testing.assert_allclose(x[image].numpy(), np.stack([one.x for one in slow]), atol=1e-5)
        for number, one in enumerate(slow):
            assert sorted((tokens.source[image] == number).nonzero()[:, 0].tolist()) == sorted(one.members)
            assert int(tokens.sizes[image, number]) == one.size
    assert torch.equal(tokens.sizes.sum(1), torch.full((len(expected),), float(count)))
    assert tokens.bias is None or torch.equal(tokens.bias, tokens.sizes.log())


def test_random_drop_takes_the_same_tokens_of_every_image_by_its_seed() -> None:
    x = features(3, 21)
    where = place(2, Tokens(1, grid=(4, 5)), 21, batch=3)
    out, tokens = RandomDrop(r=6)(x, where)
    kept = [int((x[0] == row).all(1).nonzero()[0, 0]) for row in out[0]]
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert len(kept) == 15
    assert torch.equal(out, x[:, kept])
    alone = place(2, Tokens(1, grid=(4, 5)), 21, batch=1)
    assert torch.equal(RandomDrop(r=6)(x[:1], alone)[0], out[:1])
    assert not torch.equal(RandomDrop(r=6, seed=1)(x, where)[0], out)
    assert tokens.bias is None
    keys = torch.nn.functional.normalize(where.keys(), dim=-1)
    assert tokens.source is not None
    for image in range(3):
        for gone in set(range(21)) - set(kept):
            alike = [float(keys[image, gone] @ keys[image, stays]) for stays in kept[1:]]
            assert int(tokens.source[image, gone]) == 1 + alike.index(max(alike))


def test_one_merge_conserves_the_weighted_sum_and_never_touches_cls() -> None:
    x, tokens = features(2, 21), Tokens(1, grid=(4, 5))
    for layer in range(6):
        sizes = torch.ones(2, x.shape[1]) if tokens.sizes is None else tokens.sizes
        before = (x * sizes[..., None]).sum(1)
        out, tokens = ToMe(r=3)(x, place(layer, tokens, x.shape[1]))
        assert tokens.sizes is not None
        torch.testing.assert_close((out * tokens.sizes[..., None]).sum(1), before, atol=1e-5, rtol=1e-5)
        assert torch.equal(out[:, 0], x[:, 0])
        x = out


def test_merging_tokens_that_are_all_the_same_and_unmerging_them_changes_nothing() -> None:
    x = features(2, 1).expand(-1, 21, -1).contiguous()
    where = place(0, Tokens(1, grid=(4, 5)), 21)
    assert where.call is not None
    same = Place(0, DEPTH, where.tokens, {}, Call(where.call.q, where.call.k[:, :, :1].expand_as(where.call.k), where.call.site))
    for reducer in (ToMe(r=7), PiToMe(keep=0.7), ATC(), RandomDrop(r=7), Cubist(keep=0.7)):
        out, tokens = reducer(x, same)
        assert torch.equal(spread(out, tokens), x)


def test_ties_go_to_the_first() -> None:
    """All keys alike: the first patch at an even place goes into the first at an odd one."""
    x = features(1, 9)
    where = place(0, Tokens(1), 9, batch=1)
    assert where.call is not None
    call = Call(where.call.q, torch.ones_like(where.call.k), where.call.site)
    _, tokens = ToMe(r=2)(x, Place(0, DEPTH, Tokens(1), {}, call))
    assert tokens.source is not None
    # CLS; 6 and 8 are left of the even places; then 1, 3, 5, 7, of which the first stands for 2 and 4 too
    assert tokens.source[0].tolist() == [0, 3, 3, 4, 3, 5, 1, 6, 2]


def counts(reducer: Any, count: int, prefix: int = 1, depth: int = DEPTH) -> list[int]:
    """How many tokens each block leaves."""
    x, tokens, left = features(1, count), Tokens(prefix), []
    for layer in range(depth):
        x, tokens = reducer(x, place(layer, tokens, x.shape[1], batch=1))
        left.append(x.shape[1])
    return left


def test_counts_are_the_published_ones() -> None:
    """197 tokens and 12 blocks; ToMe's clamp leaves 10 to merge in the last block."""
    assert counts(ToMe(r=16), 197) == [*range(181, 20, -16), 11]
    assert [counts(EViT(keep=0.7), 197)[layer] for layer in (2, 3, 6, 9)] == [197, 140, 100, 72]
    assert counts(RandomDrop(r=8), 197) == counts(ToMe(r=8), 197)
