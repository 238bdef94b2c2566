"""A variant as a thing of its own: it enters a model and leaves it, tells what decides a row, and says what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from fna.errors import UserError
from fna.masking.strategy import Masking
from fna.ops.contract import Site, Tokens, Unsupported
from fna.ops.exact import Exact
from fna.ops.landmarks import FarthestPoint
from fna.ops.nystrom import FastNystrom
from fna.surgery.reduce import Place
from fna.surgery.trunk import Trunk
from fna.surgery.variant import FULL, Variant, exact
from fna.versions import settings
from tests.surgery.zoo import DEPTH, fresh, images, run, zoo

FNA = FastNystrom(landmarks=4, sampler=FarthestPoint())


@dataclass(frozen=True)
class DropOdd:
    """Every second token of block 1 goes; CLS stays."""

    def __call__(self, x: torch.Tensor, place: Place) -> tuple[torch.Tensor, Tokens]:
        if place.layer != 1:
            return x, place.tokens
        tokens = replace(place.tokens, grid=None, version=place.tokens.version + 1)
        return x[:, ::2], tokens


@dataclass(frozen=True)
class Stays:
    """A reducer that does nothing."""

    def __call__(self, x: torch.Tensor, place: Place) -> tuple[torch.Tensor, Tokens]:
        return x, place.tokens


@dataclass(frozen=True)
class Refuses:
    """An op that honours nothing."""

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: Site) -> torch.Tensor:
        raise Unsupported(f"not in block {site.layer}")


@torch.inference_mode()
@pytest.mark.parametrize("variant", [FULL, exact((0, 1)), Variant("fna", {1: FNA}), Variant("less", {2: FNA}, reduce=DropOdd())])
def test_it_leaves_the_model_bit_for_bit(variant: Variant) -> None:
    model, x = zoo("timm"), images()
    before = run(model, x)
    with variant.on(model):
        inside = run(model, x)
    assert torch.equal(run(model, x), before)
    assert torch.allclose(inside, before, atol=1e-5) == (variant.label in ("full", "exact"))


def test_only_what_it_does_decides_a_row() -> None:
    assert Variant("a", {1: FNA}).decides() == Variant("b", {1: replace(FNA)}).decides()
    told = [
        FULL, exact((1,)), Variant("", {1: FNA}), Variant("", {2: FNA}), Variant("", {1: replace(FNA, landmarks=5)}),
        Variant("", {1: FNA}, mask=Masking()), Variant("", {1: FNA}, mask=Masking(cap=3)), Variant("", {1: FNA}, reduce=DropOdd()),
    ]  # fmt: skip
    assert len({repr(one.decides()) for one in told}) == len(told)


def test_settings_are_the_same_in_every_process() -> None:
    """No address and no order of a set enters: what is told of a part is plain data."""

    class Plain:
        def __init__(self, side: int) -> None:
            self.side, self._kept = side, object()

    assert settings(Plain(3)) == settings(Plain(3)) != settings(Plain(4))
    assert settings({"b": {3, 1, 2}, "a": settings}) == [["a", "fna.versions.settings"], ["b", [1, 2, 3]]]


def test_a_refusal_names_the_block() -> None:
    with pytest.raises(UserError, match="not in block 2"):
        Variant("", {0: Exact(), 2: Refuses()}).check(DEPTH)
    with pytest.raises(UserError, match="this model has blocks 0-2"):
        Variant("", {0: Exact()}, mask=Masking(blocks=9)).check(DEPTH)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["timm", "open_clip", "hf_clip", "hf_dinov2"])
def test_a_reducer_that_does_nothing_changes_nothing(family: str) -> None:
    model, x = zoo(family), images()
    with Variant("", {2: Exact()}).on(model):
        expected = run(model, x)
    with Variant("", {2: Exact()}, reduce=Stays()).on(model):
        assert torch.allclose(run(model, x), expected, atol=1e-6)


@torch.inference_mode()
def test_later_blocks_see_the_tokens_that_are_left() -> None:
    model, x = zoo("timm"), images()
    seen: list[tuple[int, int, int]] = []

    @dataclass(frozen=True, eq=False)
    class Spy:
        def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: Site) -> torch.Tensor:
            seen.append((site.layer, k.shape[2], site.tokens.version))
            return Exact()(q, k, v, site)

    with Variant("", dict.fromkeys(range(DEPTH), Spy()), reduce=DropOdd()).on(model):
        run(model, x)
    assert seen == [(0, 17, 0), (1, 17, 0), (2, 9, 1)]


@torch.inference_mode()
@pytest.mark.parametrize("family", ["timm", "open_clip", "hf_clip", "hf_dinov2"])
def test_a_shared_trunk_changes_no_bit_and_is_run_once(family: str) -> None:
    """A model of its own: transformers leaves hooks on one whose attentions somebody asked for, and then the blocks run as ever."""
    model, x, other = fresh(family), images(), images().flip(0)
    variants = [FULL, Variant("fna", {2: FNA}), exact((2,))]
    alone = []
    for variant in variants:
        with variant.on(model):
            alone.append((run(model, x), run(model, other)))
    trunk = Trunk(model, 2, room=1 << 20)
    calls = 0

    def count(*args: object) -> None:
        nonlocal calls
        calls += 1

    inner = next(part for part in trunk.tower.blocks[0].children() if list(part.parameters()))
    hook = inner.register_forward_hook(count)
    for variant, expected in zip(variants, alone, strict=True):
        with variant.on(model), trunk.shared():
            assert all(torch.equal(run(model, each), want) for each, want in zip((x, other), expected, strict=True))
    hook.remove()
    assert calls == 2  # once for each batch of images
    assert torch.equal(run(model, x), alone[0][0])


@torch.inference_mode()
def test_whoever_looks_into_the_trunk_sees_it_run() -> None:
    model, x = zoo("timm"), images()
    trunk, seen = Trunk(model, 2, room=1 << 20), []
    with trunk.shared():
        run(model, x)
    handle = trunk.tower.blocks[0].register_forward_hook(lambda block, args, out: seen.append(out.clone()))
    run(model, x)
    with trunk.shared():
        run(model, x)
    handle.remove()
    assert torch.equal(seen[0], seen[1])


@torch.inference_mode()
def test_a_trunk_without_room_computes() -> None:
    model, x = zoo("timm"), images()
    with Trunk(model, 2, room=10).shared():
        assert torch.equal(run(model, x), run(model, x))


@pytest.mark.parametrize(
    ("variant", "first"),
    [
        (FULL, DEPTH), (Variant("", {1: FNA, 2: FNA}), 1), (Variant("", {2: FNA}, mask=Masking(detect=1, first=0)), 0),
        (Variant("", {2: FNA}, reduce=DropOdd()), 0),
    ],
)  # fmt: skip
def test_the_first_block_with_anything_done_in_it(variant: Variant, first: int) -> None:
    assert variant.first_block(DEPTH) == first
