"""Test-time registers: on planted growth, and on every family that nothing changes where nothing is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fna.errors import UserError
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.lookahead import swap_masked
from fna.surgery.probe import Records, recording
from fna.surgery.registers import Registers, find_registers, left_on_patches
from fna.surgery.swap import current_swap
from tests.masking.planted import SUPPRESS, planted_images, planted_model
from tests.surgery.zoo import BUILDERS, DEPTH, images, run, zoo

MASSIVE = [[17], [3, 200]]
IMAGES = planted_images(MASSIVE, [[40], [130]])
PLAIN = [name for name in sorted(BUILDERS) if not name.startswith("eva")]
PLAN = dict.fromkeys(range(DEPTH), Exact())


def largest(model: torch.nn.Module, x: Tensor) -> Tensor:
    """The largest patch norm after the growth, ``[B]``."""
    seen: list[Records] = []
    with torch.inference_mode(), recording(model, seen.append, streams=("leaving",)):
        model(x)
    return seen[0]["leaving"][:, SUPPRESS, 1:257].amax(1)


def test_the_planted_neuron_is_found_and_moved() -> None:
    model = planted_model()
    found = find_registers(model, [IMAGES], model, Registers(neurons=1), threshold=100.0)
    assert found.found == {SUPPRESS: [0]}
    assert (largest(model, IMAGES) > 150).all()
    with swap_masked(model, {0: Exact()}, found):
        assert (largest(model, IMAGES) < 10).all()
    assert (largest(model, IMAGES) > 150).all()


@pytest.mark.parametrize("value", ["per_block", "per_neuron"])
def test_the_appended_token_takes_it_over(value: str) -> None:
    model = planted_model()
    seen: list[Records] = []
    registers = Registers(found={SUPPRESS: [0]}, tokens=2, scale=0.5, value=value)
    with torch.inference_mode(), swap_masked(model, {0: Exact()}, registers):
        out = model(IMAGES)
        with recording(model, seen.append, streams=("leaving",)):
            torch.testing.assert_close(model(IMAGES), out)
    norms = seen[0]["leaving"][:, SUPPRESS]
    assert norms.shape == (2, 259)
    # Half of 800 times the excess 1 - 0.75 of the massive tokens, both appended tokens alike.
    torch.testing.assert_close(norms[:, 257:], torch.full((2, 2), 100.0), rtol=0.02, atol=0.5)


def test_without_outliers_there_is_nothing_to_find() -> None:
    model = planted_model()
    with pytest.raises(UserError, match="no patch token has a norm above 100"):
        find_registers(model, [planted_images([[]], [[]])], model, Registers(), threshold=100.0)
    with pytest.raises(UserError, match="calibrate on images first"):
        swap_masked(model, {0: Exact()}, Registers())


@pytest.mark.parametrize("name", PLAIN)
def test_no_token_and_no_neuron_change_nothing(name: str) -> None:
    model, x = zoo(name), images()
    with torch.inference_mode():
        stock = run(model, x)
        with swap_masked(model, PLAN, None):
            want = run(model, x)
        with swap_masked(model, PLAN, Registers(found={}, tokens=0)):
            assert torch.equal(run(model, x), want)
        assert torch.equal(run(model, x), stock)


@pytest.mark.parametrize("name", PLAIN)
def test_an_appended_token_is_seen_and_taken_off(name: str) -> None:
    model, x = zoo(name), images()
    seen: list[Records] = []
    with torch.inference_mode():
        stock = run(model, x)
        registers = find_registers(model, [x], lambda batch: run(model, batch), Registers(neurons=3, highest=1), threshold=0.0)
        assert sum(map(len, registers.found.values())) == 3
        assert max(registers.found) <= 1
        with swap_masked(model, PLAN, registers):
            changed = run(model, x)
            with recording(model, seen.append, streams=("entering",)):
                run(model, x)
            alone = run(model, x[:1])
        assert torch.equal(run(model, x), stock)
    assert changed.shape == stock.shape
    assert (changed - stock).abs().max() > 1e-5
    torch.testing.assert_close(alone, changed[:1], rtol=1e-4, atol=1e-5)
    tower = find_tower(model)
    assert tower.grid is not None
    assert seen[0]["entering"].shape[-1] == tower.prefix + tower.grid[0] * tower.grid[1] + 1


def test_blocks_that_are_not_there_are_refused() -> None:
    for wrong in ({"detect": DEPTH}, {"detect": -DEPTH - 1}, {"highest": DEPTH}, {"highest": -1}):
        ((knob, value),) = wrong.items()
        with pytest.raises(UserError, match=rf"mask\.{knob}={value}: this model has blocks 0-{DEPTH - 1}"):
            find_registers(zoo("timm"), [], zoo("timm"), replace(Registers(), **wrong), 1.0)


def test_rotary_positions_are_refused() -> None:
    model = zoo("eva")
    with pytest.raises(UserError, match="rotary positions"):
        swap_masked(model, PLAN, Registers(found={}))
    assert current_swap(model) is None


def test_what_is_left_on_the_patches() -> None:
    x = torch.tensor([[[0.0], [0.0], [0.0], [0.0], [10.0]]])
    mean = torch.full_like(x, 2.0)
    assert torch.equal(left_on_patches(x, "same"), x)
    assert torch.equal(left_on_patches(x, "zero"), torch.zeros_like(x))
    assert torch.equal(left_on_patches(x, "mean"), mean)
    assert left_on_patches(x, "only_outliers").flatten().tolist() == [0, 0, 0, 0, 2]
    with pytest.raises(ValueError, match="zero, mean, only_outliers, same"):
        replace(Registers(), patches="none")
