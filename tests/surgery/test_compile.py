"""Trap 6: torch.compile inside the with block gives one graph and the same numbers, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from fna.errors import UserError
from fna.ops.exact import Exact
from fna.ops.nystrom import FastNystrom
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import DEPTH, FEW, FirstSeen, fresh, images, run, zoo


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch._dynamo.reset()


def compiled(model, backend="eager", **options):
    """A compiled way to `run`."""
    return torch.compile(lambda x: run(model, x), backend=backend, **options)


# Tracing takes seconds a model: one seam with every `make test`, the others with the slow ones.
SEAMS = [pytest.param(name, marks=[] if name == "open_clip" else pytest.mark.slow) for name in FEW]


@pytest.mark.parametrize("name", SEAMS)
def test_one_graph_and_the_same_numbers(name):
    model, x = zoo(name), images()
    with torch.no_grad(), swap_tower(model, dict.fromkeys(range(DEPTH), FirstSeen())) as swap:
        wanted = run(model, x)
        through = compiled(model, fullgraph=True)
        for _ in range(2):
            torch.testing.assert_close(through(x), wanted)
        assert torch.equal(through(images(seed=3)), run(model, images(seed=3)))
        assert swap._run.frames == []
        assert swap._run.called == set(range(DEPTH))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm", "hf_clip"])
def test_a_graph_break_inside_an_op_keeps_the_memo(name):
    class Breaks:
        def __call__(self, q, k, v, site):
            torch._dynamo.graph_break()
            return FirstSeen()(q, k, v, site)

    model, x = zoo(name), images()
    with torch.no_grad(), swap_tower(model, dict.fromkeys(range(DEPTH), Breaks())) as swap:
        wanted = run(model, x)
        through = compiled(model)
        assert torch.equal(through(x), wanted)
        assert torch.equal(through(images(seed=3)), run(model, images(seed=3)))
        assert swap._run.frames == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm", "open_clip", "hf_clip"])
def test_graphs_follow_the_swap(name):
    """Graphs made before, inside and after the with block: each call gives what the model is at that moment."""
    model, x = fresh(name), images()
    with torch.no_grad():
        stock, before = run(model, x), compiled(model)
        torch.testing.assert_close(before(x), stock)
        with swap_tower(model, dict.fromkeys(range(DEPTH), FirstSeen())):
            wanted, inside = run(model, x), compiled(model)
            torch.testing.assert_close(inside(x), wanted)
            torch.testing.assert_close(before(x), wanted)
        torch.testing.assert_close(before(x), stock)
        torch.testing.assert_close(inside(x), stock)


def test_a_compiled_model_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"swap first and call torch\.compile inside the with block"):
        swap_tower(torch.compile(zoo("timm")), {0: Exact()})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm", "open_clip", "hf_clip"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_real_compiler(name):
    model, x = zoo(name), images()
    with torch.no_grad(), swap_tower(model, {1: FastNystrom(landmarks=8), 2: FastNystrom(landmarks=8)}):
        wanted = run(model, x)
        through = compiled(model, backend="inductor")
        torch.testing.assert_close(through(x), wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(through(x), wanted, rtol=1e-3, atol=1e-3)
