"""What is recorded is what a slow look by hand sees, for every family, whether or not the model is already changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from fna.errors import UserError
from fna.masking.strategy import Masking
from fna.ops.contract import Site
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.lookahead import swap_masked
from fna.surgery.probe import CALLS, STREAMS, Records, recording
from fna.surgery.swap import current_swap, swap_tower
from tests.surgery.zoo import BUILDERS, DEPTH, Keep, images, run, zoo

EVERY = sorted(BUILDERS)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# Everything but the look at the language model of a vision-language one, whose tokens are not an image's.
WITH_CLS = [name for name in EVERY if find_tower(zoo(name)).prefix > 0]


def recorded(name: str, x: Tensor, **what: object) -> Records:
    seen: list[Records] = []
    with torch.inference_mode(), recording(zoo(name), seen.append, **what):  # type: ignore[arg-type]
        run(zoo(name), x)
    assert len(seen) == 1
    return seen[0]


def by_hand(name: str, x: Tensor) -> dict[str, Tensor]:
    """The residual stream at three places of every block, through the blocks' descriptions: ``[B, blocks, N, D]``."""
    tower, inputs = find_tower(zoo(name)), []
    hooks = [block.register_forward_pre_hook(lambda _, a, k: inputs.append((a, k)), with_kwargs=True) for block in tower.blocks]
    with torch.inference_mode():
        run(zoo(name), x)
        for hook in hooks:
            hook.remove()
        places: dict[str, list[Tensor]] = {"entering": [], "attended": [], "leaving": []}
        for block, spec, (args, kwargs) in zip(tower.blocks, tower.specs, inputs, strict=True):
            kwargs = dict(kwargs)
            stream, *rest = args or (kwargs.pop("hidden_states"),)
            middle = spec.attend(block, stream, *rest, **kwargs)
            for place, value in (("entering", stream), ("attended", middle), ("leaving", spec.feed(block, middle))):
                places[place].append(value if tower.batch_first else value.transpose(0, 1))
    return {place: torch.stack(values, 1) for place, values in places.items()}


@pytest.mark.parametrize("name", EVERY)
def test_streams_are_those_of_the_untouched_model(name: str) -> None:
    x = images()
    seen, slow = recorded(name, x, streams=tuple(STREAMS)), by_hand(name, x)
    for place, stream in slow.items():
        torch.testing.assert_close(seen[place], stream.norm(dim=-1), **CLOSE)
    torch.testing.assert_close(seen["peaks"], slow["leaving"].abs().amax(2), **CLOSE)


@pytest.mark.parametrize("name", WITH_CLS)
def test_attention_of_cls_is_that_of_the_whole_matrix(name: str) -> None:
    def whole(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        logits = q @ k.transpose(-1, -2) * site.scale
        return (logits if site.key_bias is None else logits + site.key_bias[:, None, None]).softmax(-1).mean(1)

    seen = recorded(name, images(), calls=dict(CALLS, whole=whole))
    torch.testing.assert_close(seen["cls_gives"], seen["whole"][:, :, 0], **CLOSE)
    torch.testing.assert_close(seen["cls_gets"], seen["whole"][..., 0], **CLOSE)
    assert seen["values"].shape == seen["cls_gives"].shape
    assert seen["cls_gives"].shape[:2] == (len(images()), DEPTH)


@pytest.mark.parametrize("name", ["timm", "eva"])
def test_a_change_in_force_stays_in_force(name: str) -> None:
    model, x = zoo(name), images()
    seen: list[Records] = []
    with torch.inference_mode():
        stock = run(model, x)
        with swap_tower(model, {1: Keep()}) as swap:
            changed = run(model, x)
            with recording(model, seen.append, streams=("leaving",)):
                torch.testing.assert_close(run(model, x), changed, **CLOSE)
            assert current_swap(model) is swap
            assert torch.equal(run(model, x), changed)
            with pytest.raises(ValueError, match="changed already"), recording(model, seen.append, plan={1: Exact()}):
                pass
        assert torch.equal(run(model, x), stock)
    untouched = recorded(name, x, streams=("leaving",))["leaving"]
    torch.testing.assert_close(seen[0]["leaving"][:, 0], untouched[:, 0], **CLOSE)
    assert (seen[0]["leaving"][:, 1] - untouched[:, 1]).abs().mean() > 0.01


@pytest.mark.parametrize("name", [name for name in WITH_CLS if name != "eva_mixed"])
def test_masking_with_look_ahead_in_every_family(name: str) -> None:
    """A factor of 0 makes every patch a sink until the cap, so that the look-ahead is used to the full."""
    model, x, memos = zoo(name), images(), []
    masking = Masking(blocks="0-2", first=0, detect=1, factor=0.0, least=0.0, stands=0.0, cap=3)
    with torch.inference_mode():
        stock = run(model, x)
        with swap_masked(model, {}, masking, on_end=lambda memo: memos.append(dict(memo))):
            masked = run(model, x)
            with recording(model, lambda _: None, streams=("leaving",)):
                torch.testing.assert_close(run(model, x), masked, **CLOSE)
            torch.testing.assert_close(run(model, x), masked, **CLOSE)
            alone = run(model, x[:1])
        assert torch.equal(run(model, x), stock)
    torch.testing.assert_close(alone, masked[:1], **CLOSE)
    sinks, massive = memos[0]["found", "sinks"], memos[0]["found", "massive"]
    assert (sinks.sum(1) == 3).all()
    assert not sinks[:, 0].any()
    assert not massive[:, 0].any()
    assert (masked - stock).abs().mean() > 1e-4


def test_spans_of_the_clock_do_not_nest() -> None:
    """A look-ahead runs attention with stages of its own: its time counts once."""
    running: list[str] = []
    spans: list[str] = []

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        spans.append("/".join([*running, name]))
        running.append(name)
        yield
        running.pop()

    masking = Masking(blocks="0-2", first=0, detect=1, factor=0.0, least=0.0, stands=0.0, cap=3)
    with torch.inference_mode(), swap_masked(zoo("timm"), {}, masking, clock=clock):
        run(zoo("timm"), images())
    assert spans.count("looking ahead") == 1
    assert len(spans) > 1
    assert not [span for span in spans if "/" in span]


def test_without_cls_the_proxy_says_what_to_use_instead() -> None:
    name = "hf_siglip"
    with torch.inference_mode(), pytest.raises(ValueError, match="no CLS token"), swap_masked(zoo(name), {}, Masking()):
        run(zoo(name), images())


def test_rotary_tables_of_their_own_are_refused() -> None:
    model = zoo("eva_mixed")
    with pytest.raises(UserError, match="use mask=massive"):
        swap_masked(model, {}, Masking())
    assert current_swap(model) is None
    with torch.inference_mode(), swap_masked(model, {}, Masking(tokens="massive")):
        run(model, images())
