"""What a swap promises, over small random models of every family."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import fna
from fna.errors import UserError
from fna.ops.contract import Unsupported, refuse
from fna.ops.exact import Exact
from fna.ops.nystrom import FastNystrom
from fna.surgery.blocks import find_tower, forward_key
from fna.surgery.swap import current_swap, swap_tower
from tests.surgery.zoo import BUILDERS, DEPTH, FEW, FirstSeen, Keep, Spy, fresh, images, run, zoo

EVERY = sorted(BUILDERS)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Broken:
    """An op that fails."""

    def __call__(self, q, k, v, site):
        raise ZeroDivisionError


def everywhere(op):
    return dict.fromkeys(range(DEPTH), op)


def block_inputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The residual stream entering each block."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        for block in find_tower(model).blocks
    ]
    run(model, x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("name", EVERY)
def test_exact_changes_nothing_and_restore_is_bitwise(name, grad):
    model, x = zoo(name), images()
    with torch.set_grad_enabled(grad):
        stock = run(model, x)
        with swap_tower(model, everywhere(Exact())) as swap:
            through = run(model, x)
            assert swap._run.called == set(range(DEPTH))
        torch.testing.assert_close(through, stock, **CLOSE)
        assert torch.equal(run(model, x), stock)


@pytest.mark.parametrize("name", EVERY)
def test_the_op_is_what_runs(name):
    model, x = zoo(name), images()
    with torch.inference_mode():
        stock = run(model, x)
        with swap_tower(model, everywhere(Keep())):
            assert (run(model, x) - stock).abs().mean() > 0.1
        assert torch.equal(run(model, x), stock)


@pytest.mark.parametrize("name", EVERY)
def test_unchosen_blocks_are_untouched(name):
    model, x = zoo(name), images()
    with torch.no_grad():
        stock = block_inputs(model, x)
        with swap_tower(model, {1: Keep()}):
            changed = block_inputs(model, x)
    assert all(torch.equal(a, b) for a, b in zip(stock[:2], changed[:2], strict=True))
    assert not torch.equal(stock[2], changed[2])


@pytest.mark.parametrize("name", EVERY)
def test_weights_names_and_classes_stay(name):
    model = zoo(name)
    before = {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
    modules = [(key, id(module), type(module)) for key, module in model.named_modules()]
    attributes = [set(vars(module)) for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    with swap_tower(model, everywhere(Keep())):
        assert {key: id(value) for key, value in model.state_dict(keep_vars=True).items()} == before
        assert [(key, id(module), type(module)) for key, module in model.named_modules()] == modules
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()] == hooks


@pytest.mark.parametrize("name", EVERY)
def test_site_tells_the_place(name):
    model, sites = zoo(name), []
    tower = find_tower(model)
    with torch.no_grad():
        with swap_tower(model, everywhere(Spy(sites))):
            inputs = block_inputs(model, images())
        assert [site.layer for site in sites] == list(range(DEPTH))
        assert {site.depth for site in sites} == {DEPTH}
        for site, entering in zip(sites, inputs, strict=True):
            assert torch.equal(site.hidden, entering if tower.batch_first else entering.transpose(0, 1))
            assert site.hidden.shape[:2] == (2, tower.prefix + 16)
            assert (site.tokens.prefix, site.tokens.suffix, site.tokens.grid) == (tower.prefix, 0, (4, 4))
    assert all(site.memo is sites[0].memo for site in sites)


@pytest.mark.parametrize("name", FEW)
def test_gradients_flow_to_the_weights(name):
    model = fresh(name)
    with swap_tower(model, everywhere(Exact())):
        run(model, images()).square().sum().backward()
    tower = find_tower(model)
    weights = [weight for block in tower.blocks for weight in block.parameters()]
    assert weights
    assert all(weight.grad is not None for weight in weights)


@pytest.mark.parametrize("name", FEW)
def test_autocast(name):
    model, x = zoo(name), images()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            stock = run(model, x)
            with swap_tower(model, everywhere(Exact())):
                through = run(model, x)
        # Two roundings to 8 bits of mantissa may part ways; they must not be worlds apart.
        assert (through.float() - stock.float()).norm() < 0.05 * stock.float().norm()


@pytest.mark.parametrize("name", FEW)
def test_half_precision_weights(name):
    model, x = fresh(name).to(torch.bfloat16), images().bfloat16()
    with torch.no_grad():
        stock = run(model, x)
        with swap_tower(model, everywhere(Exact())):
            through = run(model, x)
    assert through.dtype == stock.dtype
    assert (through.float() - stock.float()).norm() < 0.05 * stock.float().norm()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", FEW)
def test_a_copy_is_changed_too_with_its_own_weights(name, copier):
    model, x = fresh(name), images()
    with torch.no_grad():
        stock = run(model, x)
        with swap_tower(model, everywhere(FirstSeen()), on_end=lambda memo: None):
            changed = run(model, x)
            twin = copier(model)
        assert torch.equal(run(model, x), stock)
        assert torch.equal(run(twin, x), changed)
        for weight in model.parameters():
            weight.zero_()
        assert torch.equal(run(twin, x), changed)
        current_swap(twin).restore()
        assert torch.equal(run(twin, x), stock)
        assert current_swap(twin) is None


def test_a_model_saved_inside_the_block_is_changed_and_can_be_restored(tmp_path):
    model, x = fresh("timm"), images()
    with torch.no_grad():
        stock = run(model, x)
        with swap_tower(model, everywhere(Exact())):
            torch.save(model, tmp_path / "model.pt")
            torch.save(model.state_dict(), tmp_path / "weights.pt")
        twin = torch.load(tmp_path / "model.pt", weights_only=False)
        assert current_swap(twin) is not None
        current_swap(twin).restore()
        assert torch.equal(run(twin, x), stock)
        twin.load_state_dict(torch.load(tmp_path / "weights.pt"))  # weights alone know nothing of a swap
        assert torch.equal(run(twin, x), stock)


@pytest.mark.parametrize("mask", [None, "massive", "artifact", "both", "found"])
@pytest.mark.parametrize("attn", ["exact", "fna", "nystromformer", "low_rank"])
def test_no_images_give_no_outputs(attn, mask):
    """Whatever the method and the mask: an empty batch comes out as one (stock open_clip and transformers take none)."""
    options = {} if attn == "exact" else {"landmarks": 4}
    model, x = zoo("timm"), images()
    with torch.no_grad():
        stock = run(model, x)
        with fna.swap(model, attn, layers="all", mask=mask, **options):
            assert run(model, x[:0]).shape == (0, *stock.shape[1:])


def test_the_handle_says_what_it_did():
    model = zoo("timm")
    swap = swap_tower(model, {2: Keep(), 0: Exact()})
    assert swap.active
    assert current_swap(model) is swap
    assert list(swap.plan) == [0, 2]
    assert repr(swap) == "<Swap of timm.VisionTransformer, 3 blocks; blocks 0: Exact(kernel='torch'); blocks 2: Keep()>"
    swap.restore()
    swap.restore()
    assert not swap.active
    assert "restored" in repr(swap)
    with pytest.raises(UserError, match="make a new one"), swap:
        pass


def test_a_swap_whose_handle_is_lost_can_be_restored_as_its_refusal_says():
    model, x = zoo("timm"), images()
    with torch.no_grad():
        stock = run(model, x)
        swap_tower(model, {1: Keep()})
        with pytest.raises(UserError, match=r"fna.surgery.swap.current_swap\(model\).restore\(\)"):
            swap_tower(model, {1: Keep()})
        current_swap(model).restore()
        assert torch.equal(run(model, x), stock)


@pytest.mark.parametrize("name", ["timm", "hf_clip"])
def test_a_second_swap_of_one_tower_is_refused(name):
    model, x = zoo(name), images()
    with torch.no_grad():
        stock = run(model, x)
        with swap_tower(model, {1: Exact()}):
            with pytest.raises(UserError, match=r"already changed .*restore that first"):
                swap_tower(model, {2: Keep()})
            torch.testing.assert_close(run(model, x), stock, **CLOSE)
        assert torch.equal(run(model, x), stock)


def test_restored_although_the_body_fails():
    model, x = zoo("timm"), images()

    def body():
        with swap_tower(model, everywhere(Keep())):
            raise KeyError("mine")

    with torch.no_grad():
        stock = run(model, x)
        with pytest.raises(KeyError, match="mine"):
            body()
        assert torch.equal(run(model, x), stock)


def test_a_block_that_never_ran_is_an_error_unless_another_one_is_on_its_way():
    model, x = zoo("timm"), images()

    def shallow(error=None):
        with swap_tower(model, {2: Exact()}):
            model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
            if error is not None:
                raise error

    with pytest.raises(UserError, match=r"blocks \[2\] were changed but never ran"):
        shallow()
    with pytest.raises(KeyError, match="mine"):
        shallow(KeyError("mine"))
    with swap_tower(model, {2: Exact()}):
        pass  # nothing ran at all: nothing was measured
    with swap_tower(model, {0: Broken(), 2: Exact()}), pytest.raises(ZeroDivisionError):
        model(x)  # dealt with where it happened: not a second error on the way out


@pytest.mark.parametrize(
    ("plan", "message"), [({}, "names no block"), ({3: Keep()}, r"blocks \[3\] are not there"), ({-1: Keep()}, "not there")]
)
def test_bad_plans(plan, message):
    with pytest.raises(UserError, match=message):
        swap_tower(zoo("timm"), plan)


def test_an_op_that_refuses_leaves_a_model_that_works():
    class Picky:
        def __call__(self, q, k, v, site):
            refuse(self, site, "dense")
            return v

    model, x = zoo("timm"), images()
    mask = torch.zeros(17, 17)
    with torch.no_grad():
        stock = run(model, x)
        with swap_tower(model, everywhere(Picky())):
            with pytest.raises(Unsupported, match=r"Picky cannot honour 'dense' \(block 0\)"):
                model.forward_features(x, attn_mask=mask)
            run(model, x)
        assert torch.equal(run(model, x), stock)


@pytest.mark.parametrize("name", ["timm", "open_clip", "hf_clip"])
def test_attention_dropout_in_training_is_refused(name):
    model = fresh(name)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.1
        elif hasattr(module, "attn_drop"):
            module.attn_drop.p = 0.1
        elif forward_key(module) == "transformers.CLIPAttention":
            module.dropout = 0.1
    with torch.no_grad(), swap_tower(model, everywhere(Exact())):
        run(model, images())
        model.train()
        with pytest.raises(UserError, match=r"block 0 drops attention weights at random.*model.eval\(\)"):
            run(model, images())


def test_attention_patched_by_somebody_else_is_refused():
    model = fresh("timm")
    attention = model.blocks[1].attn
    attention.forward = lambda x, **_: x
    with pytest.raises(UserError, match="block 1: another tool has already replaced the forward"):
        swap_tower(model, everywhere(Exact()))
    assert "forward" not in vars(model.blocks[0].attn)
    assert current_swap(model) is None


@pytest.mark.parametrize("name", ["open_clip", "hf_clip_pair", "hf_siglip_pair", "open_clip_timm"])
def test_the_text_tower_is_untouched(name):
    model = zoo(name)
    tokens = torch.randint(2, 40, (2, 8), generator=torch.Generator().manual_seed(0))
    encode = model.encode_text if hasattr(model, "encode_text") else lambda ids: model.get_text_features(input_ids=ids)
    with torch.no_grad():
        stock = encode(tokens)
        with swap_tower(model, everywhere(Keep())):
            changed = encode(tokens)
            run(model, images())
    stock, changed = (out if isinstance(out, Tensor) else out.pooler_output for out in (stock, changed))
    assert torch.equal(stock, changed)


@pytest.mark.parametrize("name", ["timm_map_pool", "open_clip_coca", "hf_siglip", "open_clip_timm"])
def test_pooling_heads_are_left_alone(name):
    model = zoo(name)
    inside = {id(module) for block in find_tower(model).blocks for module in block.modules()}
    pools = [m for m in model.modules() if "Pool" in type(m).__name__ and id(m) not in inside]
    assert pools
    before = [(set(vars(part)), len(part._forward_hooks)) for pool in pools for part in pool.modules()]
    with swap_tower(model, everywhere(Keep())):
        names = [set(vars(part)) for pool in pools for part in pool.modules()]
        assert all("forward" not in held for held in names)
        run(model, images())
    assert [(set(vars(part)), len(part._forward_hooks)) for pool in pools for part in pool.modules()] == before


@pytest.mark.filterwarnings("ignore:landmarks=64 is more than")
@pytest.mark.parametrize("name", EVERY)
def test_fna_with_every_token_and_a_solve_is_next_to_nothing(name):
    model, x = zoo(name), images()
    with torch.no_grad():
        stock = run(model, x)
        with swap_tower(model, {2: FastNystrom(landmarks=64, inverse="exact")}):
            through = run(model, x)
    assert (through - stock).norm() < 1e-2 * stock.norm()
