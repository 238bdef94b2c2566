"""One memo for each pass, model and thread; looking ahead; which tokens there are."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from fna.ops.contract import Tokens
from fna.surgery.forward import Forward, Frame
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import DEPTH, FEW, FirstSeen, Keep, Spy, fresh, images, run, zoo


def everywhere(op):
    return dict.fromkeys(range(DEPTH), op)


def expected(name, x):
    """What a model that never saw another batch gives."""
    with torch.no_grad(), swap_tower(zoo(name), everywhere(FirstSeen())):
        return run(zoo(name), x)


@pytest.mark.parametrize("name", FEW)
def test_batches_do_not_see_each_other(name):
    model, a, b = zoo(name), images(seed=1), images(batch=3, seed=2)
    wanted = expected(name, b)
    with torch.no_grad(), swap_tower(model, everywhere(FirstSeen())) as swap:
        run(model, a)
        assert swap._run.frames == []
        assert torch.equal(run(model, b), wanted)


@pytest.mark.parametrize("name", ["timm", "eva"])
@pytest.mark.parametrize("way", ["forward_features", "forward_intermediates", "early_stop", "get_intermediate_layers"])
def test_feature_extractors_bypass_the_models_hooks_but_not_ours(name, way):
    """Trap 2: with the memo emptied by a hook of the model, the second batch would attend to the first one's landmarks."""
    model = zoo(name)
    if not hasattr(model, way) and way != "early_stop":
        pytest.skip(f"{name} has no {way}")
    ways = {
        "forward_features": lambda x: model.forward_features(x),
        "forward_intermediates": lambda x: model.forward_intermediates(x, intermediates_only=True)[-1],
        "early_stop": lambda x: model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)[-1],
        "get_intermediate_layers": lambda x: model.get_intermediate_layers(x, n=1)[0],
    }
    fired, call = [], ways[way]
    a, b = images(seed=1), images(seed=2)
    hook = model.register_forward_pre_hook(lambda *_: fired.append(1))
    with torch.no_grad():
        with swap_tower(model, {0: FirstSeen(), 1: FirstSeen()}):
            wanted = call(b)
        with swap_tower(model, {0: FirstSeen(), 1: FirstSeen()}):
            call(a)
            assert torch.equal(call(b), wanted)
    hook.remove()
    assert not fired


def test_the_memo_of_a_pass_that_failed_does_not_leak():
    @dataclass(frozen=True, eq=False)
    class Fragile:
        state: dict

        def __call__(self, q, k, v, site):
            if site.layer == 1 and self.state["fail"]:
                raise FloatingPointError("half-way")
            return FirstSeen()(q, k, v, site)

    model, b = zoo("timm"), images(seed=2)
    wanted, op = expected("timm", b), Fragile({"fail": True})
    with torch.no_grad(), swap_tower(model, everywhere(op)) as swap:
        with pytest.raises(FloatingPointError, match="half-way"):
            run(model, images(seed=1))
        op.state["fail"] = False
        assert torch.equal(run(model, b), wanted)
        assert swap._run.frames == []


def test_the_listener_is_shown_the_memo_after_each_pass():
    model, picks = zoo("timm"), []
    with torch.no_grad(), swap_tower(model, {1: FirstSeen()}, on_end=lambda memo: picks.append(memo["pick"])):
        for batch in (2, 3):
            run(model, images(batch))
    assert [pick.shape[0] for pick in picks] == [2, 3]


def test_the_clock_reaches_the_op():
    stages = []

    def clock(stage):
        stages.append(stage)
        return threading.Lock()

    class Timed:
        def __call__(self, q, k, v, site):
            with site.clock("attention"):
                return v

    with torch.no_grad(), swap_tower(zoo("timm"), {1: Timed()}, clock=clock):
        run(zoo("timm"), images())
    assert stages == ["attention"]


def test_two_threads_share_a_model_but_no_memo():
    model = zoo("open_clip")
    batches = [images(seed=seed) for seed in (1, 2)]
    wanted = [expected("open_clip", x) for x in batches]
    barrier, results = threading.Barrier(2, timeout=60), [[], []]

    @dataclass(frozen=True)
    class InStep:
        """Both threads are always in the same block at the same time."""

        def __call__(self, q, k, v, site):
            barrier.wait()
            return FirstSeen()(q, k, v, site)

    def work(which):
        with torch.no_grad():
            for _ in range(5):
                results[which].append(run(model, batches[which]))

    with swap_tower(model, everywhere(InStep())):
        threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for which in range(2):
        assert len(results[which]) == 5
        assert all(torch.equal(result, wanted[which]) for result in results[which])


@pytest.mark.parametrize("pair", [("timm", "open_clip"), ("hf_clip", "hf_dinov2")])
def test_two_models_at_once(pair):
    a, b = (zoo(name) for name in pair)
    x = images()
    with torch.no_grad():
        stock = run(a, x), run(b, x)
        with swap_tower(a, everywhere(Keep())):
            changed = run(a, x)
            with swap_tower(b, everywhere(FirstSeen())):
                assert torch.equal(run(a, x), changed)
                assert not torch.equal(run(b, x), stock[1])
            assert torch.equal(run(b, x), stock[1])
        assert torch.equal(run(a, x), stock[0])


def test_two_models_with_one_config():
    """A config is shared by every model that is made from it: changing one must not change the other."""
    a = fresh("hf_clip", seed=1)
    b = type(a)(a.config).eval()
    assert a.config is b.config
    x = images()
    with torch.no_grad():
        stock = run(b, x)
        with swap_tower(a, everywhere(Keep())):
            assert b.config._attn_implementation == "sdpa"
            assert torch.equal(run(b, x), stock)
        assert a.config is b.config


@pytest.mark.parametrize("stock", [True, False])
@pytest.mark.parametrize("name", FEW)
def test_a_rule_looks_ahead_without_disturbing_the_pass(name, stock):
    """From a pre-hook of block 0, which is where a rule for sink tokens looks ahead."""
    model, x = zoo(name), images()
    seen = {}
    with torch.no_grad():
        plain, wanted = run(model, x), expected(name, x)
        swap = swap_tower(model, everywhere(FirstSeen()), on_end=lambda memo: seen.update(memo))

        def rule(block, args, kwargs):
            if "first" in seen:
                return
            seen["first"] = True
            kwargs = dict(kwargs)
            hidden, *rest = args or (kwargs.pop("hidden_states"),)
            swap.frame.memo["mine"] = "kept"
            seen["ahead"] = swap.rerun(hidden, 0, None, *rest, stock=stock, **kwargs)
            assert "pick" not in swap.frame.memo

        last = []
        hooks = [
            swap.tower.blocks[0].register_forward_pre_hook(rule, with_kwargs=True),
            swap.tower.blocks[-1].register_forward_hook(
                lambda _, args, out: last.append(out[0] if isinstance(out, tuple) else out)
            ),
        ]
        with swap:
            assert torch.equal(run(model, x), wanted)
        for hook in hooks:
            hook.remove()
    assert seen["mine"] == "kept"
    ahead, real = last
    assert torch.equal(seen["ahead"], ahead)
    assert torch.equal(ahead, real) is not stock
    if stock:
        again = []
        hook = swap.tower.blocks[-1].register_forward_hook(
            lambda _, args, out: again.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.no_grad():
            assert torch.equal(run(model, x), plain)
        hook.remove()
        assert torch.equal(seen["ahead"], again[0])


def test_a_block_called_outside_any_pass_has_a_memo_of_its_own():
    model, sites = zoo("timm"), []
    x = torch.randn(2, 17, 32)
    with torch.no_grad(), swap_tower(model, everywhere(Spy(sites))) as swap:
        model.blocks[1](x)
        model.blocks[2](x)
        model.blocks[2].attn(x)
        assert swap._run.frames == []
        # An early stop leaves a memo; a block that comes out of order does not inherit it.
        model.forward_intermediates(images(), indices=[1], stop_early=True, intermediates_only=True)
        model.blocks[1](x)
        run(model, images())
    assert len({id(site.memo) for site in sites[:3]}) == 3
    assert sites[2].hidden is None
    assert sites[5].memo is not sites[4].memo
    assert sites[-1].memo is sites[-3].memo


def test_the_grid_of_the_image_at_hand():
    model, sites = zoo("timm_registers"), []
    with torch.no_grad(), swap_tower(model, {1: Spy(sites)}):
        for size in ((32, 32), (16, 64), (24, 40)):
            model(torch.randn(1, 3, *size))
    assert [site.tokens.grid for site in sites] == [(4, 4), (2, 8), (3, 5)]
    assert {site.tokens.prefix for site in sites} == {5}


def test_tokens_appended_at_the_end_are_the_suffix():
    model, sites = zoo("timm"), []
    with torch.no_grad(), swap_tower(model, {1: Spy(sites)}) as swap:
        hook = model.blocks[0].register_forward_pre_hook(lambda _, args: F.pad(args[0], (0, 0, 0, 2)))
        run(model, images())
        hook.remove()

        def declare(block, args):
            swap.frame.tokens = Tokens(prefix=1, suffix=0, version=1)
            return args[0][:, :9]

        hook = model.blocks[1].register_forward_pre_hook(declare)
        run(model, images())
        hook.remove()
        run(model, images())
    shapes = [(site.tokens.prefix, site.tokens.suffix, site.tokens.grid, site.tokens.version) for site in sites]
    assert shapes == [(1, 2, (4, 4), 0), (1, 0, None, 1), (1, 0, (4, 4), 0)]


@pytest.mark.parametrize(
    ("grid", "seen", "count", "tokens"),
    [
        ((4, 4), None, 17, (0, (4, 4))),
        ((2, 8), None, 17, (0, (2, 8))),
        ((4, 4), None, 26, (0, (5, 5))),
        ((4, 4), None, 20, (0, None)),
        ((4, 4), (2, 3), 7, (0, (2, 3))),
        ((4, 4), (2, 3), 9, (2, (2, 3))),
        ((4, 4), (5, 5), 17, (0, (4, 4))),
        (None, None, 17, (0, None)),
        ((4, 4), None, 1, (0, None)),
    ],
)
def test_layout(grid, seen, count, tokens):
    layout = Forward(depth=1, prefix=1, grid=grid).layout(Frame(grid=seen), count)
    assert (layout.prefix, layout.suffix, layout.grid) == (1, *tokens)
    declared = replace(layout, version=3)
    assert Forward(depth=1, prefix=1, grid=grid).layout(Frame(tokens=declared), count) is declared
