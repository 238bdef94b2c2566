"""Blocks whose projections an op takes over: the same outputs, and never where anybody would miss what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fna.errors import UserError
from fna.ops import absorbed
from fna.ops.contract import Site
from fna.ops.exact import Exact
from fna.ops.kernels import cpu
from fna.ops.landmarks import FarthestPoint, Random
from fna.ops.nystrom import FastNystrom
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import liven

pytestmark = [
    pytest.mark.skipif(not cpu.built(), reason="no C++ compiler on this machine"),
    pytest.mark.usefixtures("absorbing"),
]
OP = FastNystrom(landmarks=16, inverse="ridge")
DEPTH, SIZE = 4, 64


def vit(**options: Any) -> nn.Module:
    made = {"img_size": SIZE, "patch_size": 8, "embed_dim": 64, "depth": DEPTH, "num_heads": 2, "num_classes": 7, **options}
    return liven(timm.models.vision_transformer.VisionTransformer(**made))


class Torch(nn.Module):
    """Blocks of torch's own attention, as open_clip has them."""

    def __init__(self) -> None:
        super().__init__()
        from open_clip.transformer import Transformer

        self.transformer = Transformer(64, DEPTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(x)


def run(model: nn.Module, x: Tensor, op: Any = OP, layers: range = range(DEPTH)) -> Tensor:
    with torch.inference_mode(), swap_tower(model, dict.fromkeys(layers, op)):
        return model(x)


def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [vit, lambda: vit(qkv_bias=False), lambda: vit(reg_tokens=4, init_values=0.1), Torch])
def test_a_model_gives_what_it_gives_with_its_layers_apart(make: Callable[[], nn.Module]) -> None:
    model = liven(make())
    x = torch.randn(2, 65, 64) if isinstance(model, Torch) else images()
    out = run(model, x)
    assert absorbed.taken
    with absorbed.apart():
        expected = run(model, x)
    assert (out - expected).norm() <= 1e-4 * expected.norm()
    assert not torch.equal(out, run(model, x, Exact()))


def test_what_was_absorbed_is_told() -> None:
    run(vit(), images())
    assert absorbed.taken == {"2 x 65 x 16 of 64"}


def landmarks(model: nn.Module, op: FastNystrom) -> Tensor:
    memos: list[Any] = []
    with torch.inference_mode(), swap_tower(model, {0: op}, on_end=lambda memo: memos.extend(memo.values())):
        model(images())
    return memos[0][1].index


def test_the_mean_of_the_layers_draws_the_landmarks_that_the_mean_of_the_queries_draws() -> None:
    model = vit()
    found = landmarks(model, OP)
    assert absorbed.taken
    with absorbed.apart():
        assert torch.equal(found, landmarks(model, OP))


@pytest.mark.parametrize("sampler", [FarthestPoint("k"), FarthestPoint("input"), Random()])
def test_other_samplers_are_shown_the_queries_of_the_first_block(sampler: Any) -> None:
    run(vit(), images(), FastNystrom(landmarks=16, sampler=sampler), layers=range(1))
    assert not absorbed.taken
    run(vit(), images(), FastNystrom(landmarks=16, sampler=sampler))
    assert absorbed.taken


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Adapter(nn.Linear):
    """A linear layer of somebody's own, which does more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * x.mean()


def adapted(model: Any) -> None:
    for block in model.blocks:
        adapter = Adapter(64, 192)
        adapter.load_state_dict(block.attn.qkv.state_dict())
        block.attn.qkv = adapter


def doubled(model: Any) -> None:
    for block in model.blocks:
        parametrize.register_parametrization(block.attn.proj, "weight", Doubled())


def heard(model: Any) -> None:
    for block in model.blocks:
        block.attn.proj.register_forward_hook(lambda module, given, out: 2 * out)


def shadowed(model: Any) -> None:
    for block in model.blocks:
        block.attn.proj.forward = lambda x: 0 * x


@pytest.mark.parametrize("change", [adapted, doubled, heard, shadowed])
def test_layers_that_are_more_than_linear_run_themselves(change: Callable[[Any], None]) -> None:
    model = vit()
    plain = run(model, images())
    absorbed.taken.clear()
    change(model)
    changed = run(model, images())
    assert not absorbed.taken
    assert not torch.allclose(plain, changed, atol=1e-3)


def test_a_hook_on_all_modules_hears_every_layer() -> None:
    model, seen = vit(), []
    hook = nn.modules.module.register_module_forward_hook(lambda module, given, out: seen.append(module))
    try:
        run(model, images())
    finally:
        hook.remove()
    assert sum(module is block.attn.qkv for module in seen for block in model.blocks) == DEPTH  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{"qk_norm": True}, {"scale_attn_norm": True}, {"proj_drop_rate": 0.5}])
def test_norms_between_stay_where_they_are_and_dropout_is_none_in_eval_mode(options: dict[str, Any]) -> None:
    model = vit(**options)
    out = run(model, images())
    assert bool(absorbed.taken) == ("proj_drop_rate" in options)
    with absorbed.apart():
        assert torch.allclose(out, run(model, images()), rtol=1e-3, atol=1e-3)


@dataclass(frozen=True)
class Tempered(FastNystrom):
    """A method of somebody's own, made of FNA."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        return super().__call__(q / 8, k, v, site)


class Watched:
    """A wrapper that hands on what it does not know."""

    def __init__(self, op: Any) -> None:
        self.op, self.calls = op, 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        self.calls += 1
        return self.op(q, k, v, site)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.op, name)


@dataclass(frozen=True)
class Renamed(FastNystrom):
    """Nothing but another name."""


def test_a_method_made_of_fna_runs_its_own_call_in_every_block() -> None:
    model = vit()
    own = run(model, images(), Tempered(landmarks=16, inverse="ridge"))
    watched = Watched(OP)
    run(model, images(), watched)
    assert not absorbed.taken
    assert watched.calls == DEPTH
    assert not torch.allclose(own, run(model, images()), atol=1e-3)
    absorbed.taken.clear()
    run(model, images(), Renamed(landmarks=16, inverse="ridge"))
    assert absorbed.taken


@pytest.mark.parametrize("name", ["q_norm", "k_norm", "norm"])
def test_a_hook_where_nothing_happens_hears_every_block(name: str) -> None:
    model, heard = vit(), []
    for block in model.blocks:  # type: ignore[attr-defined]
        getattr(block.attn, name).register_forward_hook(lambda module, given, out: heard.append(module))
    run(model, images())
    assert len(heard) == DEPTH
    assert not absorbed.taken


class Wrapped(Tensor):
    """As quantised weights are: a class of its own that says it is float32."""


def test_weights_of_another_class_stay_in_their_layers() -> None:
    model = vit()
    plain = run(model, images())
    absorbed.taken.clear()
    for block in model.blocks:  # type: ignore[attr-defined]
        weight = block.attn.qkv.weight.detach().as_subclass(Wrapped)
        del block.attn.qkv.weight
        block.attn.qkv.weight = weight
    out = run(model, images())
    assert not absorbed.taken
    assert torch.allclose(out.as_subclass(Tensor), plain, rtol=1e-3, atol=1e-3)


def test_a_vmapped_model_runs_its_layers() -> None:
    model = vit()
    with torch.no_grad(), swap_tower(model, dict.fromkeys(range(DEPTH), OP)):
        out = torch.func.vmap(lambda image: model(image[None])[0])(images())
        assert not absorbed.taken
        assert torch.allclose(out, model(images()), rtol=1e-3, atol=1e-3)


def test_a_recorder_sees_the_queries_of_every_block() -> None:
    record: list[Any] = []

    def tell(q: Tensor, k: Tensor, v: Tensor, site: Any) -> Tensor:
        record.append(site.layer)
        return OP(q, k, v, site)

    run(vit(), images(), tell)
    assert record == list(range(DEPTH))
    assert not absorbed.taken


def test_with_gradients_the_layers_run_themselves() -> None:
    model = vit()
    with swap_tower(model, dict.fromkeys(range(DEPTH), OP)):
        model(images()).sum().backward()
    assert not absorbed.taken
    assert all(block.attn.qkv.weight.grad is not None for block in model.blocks)  # type: ignore[attr-defined]


def test_attention_dropout_in_training_is_refused_as_ever() -> None:
    model = vit(attn_drop_rate=0.5).train()
    with pytest.raises(UserError, match=r"call model\.eval\(\) first"):
        run(model, images())


def test_a_copy_of_a_changed_model_absorbs_its_own_weights() -> None:
    import copy

    model = vit()
    with torch.inference_mode(), swap_tower(model, dict.fromkeys(range(DEPTH), OP)):
        before = model(images())
        other = copy.deepcopy(model)
        for block in other.blocks:  # type: ignore[attr-defined]
            block.attn.proj.weight.mul_(2)
        assert not torch.allclose(other(images()), before)
        assert torch.equal(model(images()), before)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_model_keeps_its_layers() -> None:
    model = vit()
    with torch.inference_mode(), swap_tower(model, dict.fromkeys(range(DEPTH), OP)):
        traced = torch.jit.trace(model, images(), check_trace=False)
        absorbed.taken.clear()
        out = traced(images())
        assert not absorbed.taken
        assert torch.allclose(out, model(images()), rtol=1e-3, atol=1e-3)
