"""Models of one's own from Python: what somebody changed in their layers, their classes or in torch is what runs under a swap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models._features_fx import create_feature_extractor
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fna
from fna.ops import absorbed
from fna.ops.kernels import cpu
from fna.ops.nystrom import FastNystrom

pytestmark = pytest.mark.usefixtures("absorbing")
DEPTH = 3
compiled = pytest.mark.skipif(not cpu.built(), reason="no C++ compiler on this machine")


def drawn(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in model.parameters():
            part.add_(torch.randn(part.shape, generator=generator), alpha=0.15)
    return model.eval()


def vit(name: str = "deit_tiny_patch16_224", **options: Any) -> Any:
    made = {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": DEPTH, "num_heads": 2, "num_classes": 5, **options}
    torch.manual_seed(0)
    return drawn(timm.create_model(name, **made))


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def rows() -> Tensor:
    return torch.randn(2, 65, 64, generator=torch.Generator().manual_seed(2))


class Stack(nn.Module):
    """Blocks of one's own."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(make() for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Heads(nn.Module):
    """A block round torch's own attention."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(64, 2, **{"batch_first": True, **options})
        self.asked: dict[str, Any] = {"need_weights": False}

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x, x, x, **self.asked)[0]


class Timms(nn.Module):
    """A block round timm's attention, or one made of it."""

    def __init__(self, make: Callable[..., nn.Module] = Attention, **options: Any) -> None:
        super().__init__()
        self.attn = make(64, 2, qkv_bias=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.pad(self.attn(x), (0, 64))[..., :64]


def stock_and_exact(model: Any, x: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        stock = model(x, **given)
        with fna.swap(model, "exact", layers="all"):
            return stock, model(x, **given)


def same(model: Any, x: Tensor, **given: Any) -> None:
    """Exact attention through fna's seam is the model itself, and FNA is what it is with its layers apart."""
    stock, exact = stock_and_exact(model, x, **given)
    assert torch.allclose(stock, exact, rtol=1e-3, atol=1e-4 * float(stock.abs().max()))
    with torch.no_grad(), fna.swap(model, "fna", layers="all", landmarks=16):
        together = model(x, **given)
        with absorbed.apart():
            apart = model(x, **given)
    assert (together - apart).norm() <= 1e-4 * apart.norm()


# What is absorbed


@compiled
def test_layers_of_other_shapes_than_the_kernel_reads_run_themselves() -> None:
    broadcast = vit()
    for block in broadcast.blocks:
        block.attn.qkv.bias, block.attn.proj.bias = (nn.Parameter(torch.tensor([0.3])) for _ in range(2))
    same(broadcast, images())
    for width in (32, 128):
        same(drawn(Stack(lambda width=width: Timms(dim_out=width))), rows())  # type: ignore[misc]
    assert not absorbed.taken


@pytest.mark.filterwarnings("ignore:Sparse")
@compiled
def test_sparse_weights_run_themselves() -> None:
    model = vit()
    for block in model.blocks:
        block.attn.qkv.weight = nn.Parameter(block.attn.qkv.weight.detach().to_sparse_csr())
    same(model, images())
    assert not absorbed.taken


@contextmanager
def patched(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


class Rounding(TorchFunctionMode):
    """Quantisation as it is tried out: what a linear layer gives is rounded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out.round() if func is F.linear else out


class RoundingBelow(TorchDispatchMode):
    """The same, one floor deeper."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out.round() if func in (torch.ops.aten.addmm.default, torch.ops.aten.linear.default) else out


def rounding_class() -> Any:
    stock = nn.Linear.forward
    return patched(nn.Linear, "forward", lambda self, x: stock(self, x).round())


def rounding_call() -> Any:
    stock = nn.Module.__call__

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        out = stock(self, *args, **kwargs)
        return out.round() if isinstance(self, nn.Linear) else out

    return patched(nn.Module, "__call__", call)


def rounding_function() -> Any:
    stock = F.linear
    return patched(F, "linear", lambda *args, **kwargs: stock(*args, **kwargs).round())


@compiled
@pytest.mark.parametrize("change", [Rounding, RoundingBelow, rounding_class, rounding_call, rounding_function])
def test_who_changes_what_a_linear_layer_does_in_torch_changes_it_under_a_swap(change: Callable[[], Any]) -> None:
    model = vit()
    with change():
        same(model, images())
    assert not absorbed.taken


@compiled
def test_a_call_put_into_fnas_own_class_is_the_one_that_runs() -> None:
    stock, model = FastNystrom.__call__, vit()
    with patched(FastNystrom, "__call__", lambda self, q, k, v, site: stock(self, q / 8, k, v, site)):
        same(model, images())
    assert not absorbed.taken


@compiled
def test_a_default_device_changes_nothing_and_is_no_reason_to_run_layers_apart() -> None:
    with torch.device("cpu"):
        same(vit(), images())
    assert absorbed.taken


def test_a_prefix_that_an_image_has_no_tokens_for_is_refused() -> None:
    model = vit(dynamic_img_size=True)
    with (
        pytest.raises(fna.UserError, match="prefix=40: block 0 holds 17 tokens only"),
        torch.no_grad(),
        fna.swap(model, "fna", layers="all", landmarks=16, prefix=40),
    ):
        model(torch.randn(1, 3, 32, 32))


def test_a_model_on_the_meta_device_gives_the_shape_of_its_output() -> None:
    model = vit().to("meta")
    with torch.no_grad(), fna.swap(model, "fna", layers="all", landmarks=16):
        assert model(images().to("meta")).shape == (2, 5)


# Exact is stock, whatever was changed

FAMILIES = ("deit_tiny_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224", "vit_relpos_small_patch16_224")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scale", [0.5, torch.tensor(0.4)])
@pytest.mark.parametrize("name", [*FAMILIES, "samvit_base_patch16_224"])
def test_a_scale_that_somebody_set_counts_where_stock_attention_reads_it(name: str, scale: Any, fused: bool) -> None:
    model = vit(name)
    for block in model.blocks:
        block.attn.fused_attn = fused
        block.attn.scale = nn.Parameter(scale) if isinstance(scale, Tensor) else scale
    same(model, images())


def test_layers_that_stock_attention_reads_and_does_not_call_are_read_here_too() -> None:
    model = drawn(Stack(Heads))
    for block in model.blocks:
        block.attn.out_proj.register_forward_hook(lambda module, given, out: 2 * out)
    same(model, rows())


def test_an_adapter_in_a_layer_that_stock_attention_calls_is_called_here_too() -> None:
    model = vit("eva02_tiny_patch14_224")
    for block in model.blocks:
        block.attn.qkv_bias_separate = True
        block.attn.qkv.register_forward_hook(lambda module, given, out: 1.5 * out)
    same(model, images())


def test_dropout_that_is_left_on_alone_is_refused_where_stock_attention_would_drop() -> None:
    model = vit(attn_drop_rate=0.5)
    for block in model.blocks:
        block.attn.attn_drop.train()
        block.attn.fused_attn = True
    same(model, images())
    for block in model.blocks:
        block.attn.fused_attn = False
    with pytest.raises(fna.UserError, match="drops attention weights at random"):
        stock_and_exact(model, images())


def by_kernel(self: Any, x: Tensor, attn_mask: Any = None, is_causal: bool = False) -> Tensor:
    q, k, v = self.qkv(1.5 * x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def by_hand(self: Any, x: Tensor, attn_mask: Any = None, is_causal: bool = False) -> Tensor:
    q, k, v = self.qkv(1.5 * x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return self.proj(((q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v).transpose(1, 2).flatten(2))


@functools.wraps(Attention.forward)
def wrapped(self: Any, x: Tensor, attn_mask: Any = None, is_causal: bool = False) -> Tensor:
    return wrapped.__wrapped__(self, 1.5 * x, attn_mask, is_causal)  # type: ignore[attr-defined]


@pytest.mark.parametrize("forward", [by_kernel, by_hand, wrapped])
def test_a_forward_that_somebody_put_into_a_librarys_class_is_the_one_that_runs(forward: Any) -> None:
    model = vit()
    same(model, images())
    with patched(Attention, "forward", forward):
        same(model, images())
    same(model, images())


def test_a_forward_put_into_a_class_that_shows_no_attention_is_refused_by_name() -> None:
    stock = Attention.forward
    with (
        patched(Attention, "forward", lambda self, x, **others: stock(self, 1.5 * x, **others)),
        pytest.raises(fna.UserError, match=r"timm\.Attention with a forward of tests\.reliability"),
    ):
        fna.swap(vit(), "fna", layers="all")


class Louder(Attention):
    """One's own, made of timm's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(1.5 * x, *args, **kwargs)


def test_an_attention_of_ones_own_that_calls_the_one_it_is_made_of_is_found_and_run_whole() -> None:
    same(drawn(Stack(lambda: Timms(Louder))), rows())


# Sequences


@pytest.mark.parametrize("batch_first", [True, False])
def test_one_sequence_without_a_batch_is_taken(batch_first: bool) -> None:
    same(drawn(Stack(lambda: Heads(batch_first=batch_first))), rows()[0])
    layer = nn.TransformerEncoderLayer(64, 2, 128, batch_first=batch_first)
    model = drawn(nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False))
    same(model, rows()[0])
    hidden = torch.arange(65) > 50
    stock, exact = stock_and_exact(model, rows()[0], src_key_padding_mask=hidden)
    assert torch.allclose(stock[~hidden], exact[~hidden], atol=1e-4)


def test_sequences_that_torch_packs_without_their_padding_are_refused_with_what_to_do(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(functools.partial(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled()))
    torch.backends.mha.set_fastpath_enabled(True)  # as it is without a run of fna's in the process
    model = drawn(nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 2, 128, batch_first=True), DEPTH))
    hidden = (torch.arange(65) > 50).expand(2, -1)
    with pytest.raises(fna.UserError, match=r"block 0 is given a nested tensor.* enable_nested_tensor=False"):
        stock_and_exact(model, rows(), src_key_padding_mask=hidden)
    model.use_nested_tensor = False
    stock, exact = stock_and_exact(model, rows(), src_key_padding_mask=hidden)
    assert torch.allclose(stock[~hidden], exact[~hidden], atol=1e-4)


def test_attention_that_is_asked_for_weights_is_told_how_not_to() -> None:
    model = drawn(Stack(Heads))
    for block in model.blocks:
        block.asked = {}
    with pytest.raises(fna.UserError, match=r"block 0 asks its attention for weights.* need_weights=False"):
        stock_and_exact(model, rows())


def test_a_graph_of_the_model_as_it_was_is_not_taken_for_the_changed_one() -> None:
    model = vit()
    before = create_feature_extractor(model, {"blocks.1.attn.qkv": "qkv"})
    with pytest.raises(fna.UserError, match=r"no block ran: .* a graph that torch\.fx"), torch.no_grad(), fna.swap(model, "fna"):
        before(images())


# Gradients


def gradient(model: Any, op: str, reentrant: bool | None, **options: Any) -> Tensor:
    model.zero_grad()
    with fna.swap(model, op, layers="all", **options):
        x = model.patch_embed(images()).detach().requires_grad_()
        for block in model.blocks:
            x = block(x) if reentrant is None else checkpoint(block, x, use_reentrant=reentrant)
        x.square().mean().backward()
    return model.blocks[0].attn.qkv.weight.grad.clone()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_that_would_draw_other_landmarks_in_the_backward_pass_is_refused(reentrant: bool) -> None:
    model = vit()
    with pytest.raises(fna.UserError, match=r"block 2 runs again in the backward pass.* turn it off"):
        gradient(model, "fna", reentrant, landmarks=16)
    assert torch.allclose(gradient(model, "exact", reentrant), gradient(model, "exact", None), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_so_is_that_of_transformers_which_runs_a_blocks_forward_without_its_hooks(reentrant: bool) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "intermediate_size": 128}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=64, patch_size=8)).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    with (
        pytest.raises(fna.UserError, match=r"block 2 runs again in the backward pass"),
        fna.swap(model, "fna", layers="all", landmarks=16),
    ):
        model(images()).last_hidden_state.sum().backward()


# fna.compare


def compared(model: Any, count: int = 6, **options: Any) -> Any:
    shared = {"landmarks": 16, "layers": "all", "rounds": 0, "bootstrap": 100}
    return fna.compare(model, [(images(count), torch.arange(count) % 5)], **{**shared, **options}).result


def test_a_metric_that_works_in_place_changes_no_figure_beside_its_own() -> None:
    def picky(outputs: Tensor, targets: Tensor) -> Tensor:
        outputs.sub_(outputs.amax(1, keepdim=True))
        outputs[:, 1:] = 0
        return (outputs.argmax(1) == targets).float()

    model = vit()
    assert compared(model, metric=picky)["fidelity"] == compared(model)["fidelity"]


def test_a_model_that_normalises_its_images_in_place_gets_the_loaders_each_time() -> None:
    model = vit()
    apart = compared(model, forward=lambda x: model(x.sub(0.5).div(0.3)))
    assert compared(model, forward=lambda x: model(x.sub_(0.5).div_(0.3)))["fidelity"] == apart["fidelity"]


def test_what_a_metric_of_ones_own_raises_is_told_with_its_file_and_line() -> None:
    with pytest.raises(fna.UserError, match=r"KeyError: 'scores' \(.*test_faults_w\.py:\d+\)"):
        compared(vit(), metric=lambda outputs, targets: {}["scores"])


def test_a_forward_of_another_model_than_the_one_handed_over_is_refused() -> None:
    other = vit()
    with pytest.raises(fna.UserError, match="none of its blocks runs in forward="):
        compared(vit(), forward=lambda x: other(x))


def test_a_forward_that_stops_early_is_compared_in_the_blocks_that_it_runs() -> None:
    model = vit()

    def early(x: Tensor) -> Tensor:
        return model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)[0]

    assert 0 < compared(model, forward=early, layers="0-1")["fidelity"]["output_error"] < 1


def test_complex_outputs_are_compared_whole() -> None:
    model = vit()
    assert compared(model, forward=lambda x: 1j * model(x))["fidelity"]["output_error"] > 0


@pytest.mark.parametrize("wrap", [lambda out: {"logits": out, "features": out[:, :2]}, lambda out: {"out": out}, lambda out: [out]])
def test_outputs_in_a_dict_or_a_list_are_compared(wrap: Callable[[Tensor], Any]) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = vit()

        def forward(self, x: Tensor) -> Any:
            return wrap(self.net(x))

    assert compared(Wrapped(), metric="top1")["metrics"] == compared(vit(), metric="top1")["metrics"]
