"""Relative positions, attention found by structure, blocks that somebody names: exact changes nothing, FNA has its limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

import fna
from fna.errors import UserError
from fna.ops.bias import Decomposed, Indexed, Table
from fna.ops.contract import Site
from fna.ops.exact import Exact
from fna.ops.nystrom import FastNystrom
from fna.surgery.blocks import find_tower
from fna.surgery.swap import current_swap, swap_tower
from tests.surgery.zoo import images, liven

LIMIT = FastNystrom(landmarks=10_000, inverse="exact")
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}


def sam(**options) -> nn.Module:
    wish = {"img_size": 40, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2, "neck_chans": 8, "window_size": 4}
    return timm.create_model("samvit_base_patch16", **{**wish, "global_attn_indexes": (1,), **options})


SHARED = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}


class Plain(nn.Module):
    """Somebody's own attention, multiplied out."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        return self.out(((q @ k.mT / 4).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Own(nn.Module):
    def __init__(self, made: Callable[[], nn.Module] = Plain) -> None:
        super().__init__()
        self.stem, self.layers = nn.Conv2d(3, 32, 8, 8), nn.ModuleList(made() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        for layer in self.layers:
            x = x + layer(x)
        return x.mean(1)


def encoder(norm_first: bool, batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=batch_first, norm_first=norm_first)

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.encoder = nn.Conv2d(3, 32, 8, 8), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).flatten(2).mT
            return self.encoder(x if batch_first else x.transpose(0, 1))

    return Sequence()


def torchvision_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer as Vit

    return Vit(32, 8, 3, 2, 32, 64, num_classes=5)


MODELS = {
    "beit": lambda: timm.create_model("beit_base_patch16_224", **SMALL),
    "beit shared": lambda: timm.create_model("beit_base_patch16_224", **SMALL, **SHARED),
    "relative": lambda: timm.create_model("vit_relpos_small_patch16_224", **SMALL, class_token=True, rel_pos_type="bias"),
    "relative mlp": lambda: timm.create_model("vit_relpos_small_patch16_224", **SMALL, rel_pos_type="mlp"),
    "relative shared": lambda: timm.create_model("vit_srelpos_small_patch16_224", **SMALL),
    "sam": sam,
    "sam rope": lambda: sam(use_rel_pos=False, use_rope=True),
    "deit distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **SMALL),
    "dinov3": lambda: timm.create_model("vit_small_patch16_dinov3", **SMALL),
    "perception": lambda: timm.create_model("vit_pe_core_tiny_patch16_384", **{**SMALL, "num_classes": 0}),
    "naflex": lambda: timm.create_model("naflexvit_base_patch16_gap", patch_size=8, embed_dim=32, depth=3, num_heads=2),
    "parallel": lambda: VisionTransformer(**SMALL, block_fn=ParallelScalingBlock),
    "differential": lambda: VisionTransformer(**SMALL, attn_layer="diff"),
    "torchvision": torchvision_vit,
    "encoder": lambda: encoder(True, True),
    "encoder, norm after": lambda: encoder(False, True),
}  # fmt: skip


@cache
def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = liven(MODELS[name]())
    with torch.no_grad():
        for key, weight in net.named_parameters():
            if "rel" in key and "mlp" not in key:  # positions that matter
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return net


def pixels(name: str) -> Tensor:
    return images(size=40 if name.startswith("sam") else 32)


@torch.inference_mode()
@pytest.mark.parametrize("name", MODELS)
def test_exact_and_all_landmarks_equal_stock_in_every_block(name: str) -> None:
    net, x = model(name), pixels(name)
    stock = net(x)
    size = float(stock.abs().max())
    for op, tolerance in ((Exact(), 1e-5), (LIMIT, 1e-4)):
        with swap_tower(net, dict.fromkeys(range(3), op)) as swap:
            difference = float((net(x) - stock).abs().max())
            assert difference < tolerance * max(1.0, size), (op, difference)
            assert swap._run.called == {0, 1, 2}
    assert torch.equal(net(x), stock)
    with swap_tower(net, {1: FastNystrom(landmarks=3, steps=2)}):  # it is the op that runs
        assert float((net(x) - stock).abs().max()) > 1e-4 * size


@pytest.mark.parametrize(
    ("name", "kind"),
    [("beit", Indexed), ("relative", Indexed), ("relative mlp", Table), ("beit shared", Table), ("sam", Decomposed)],
)
def test_positions_are_handed_over_as_they_are_kept(name: str, kind: type) -> None:
    seen: list[Site] = []

    def spy(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        seen.append(site)
        return Exact()(q, k, v, site)

    with torch.inference_mode(), swap_tower(model(name), {1: spy}):
        model(name)(pixels(name))
    assert isinstance(seen[0].dense, kind)


def test_windows_are_left_exact_unless_a_number_names_them() -> None:
    tower = find_tower(model("sam"))
    assert tower.windowed == {0: 16, 2: 16}
    assert tower.windows() == (
        "block 1 is global; the others attend in windows of 16 tokens and stay exact unless a number names them"
    )
    with fna.swap(model("sam"), "fna", layers="all", landmarks=8) as swap:
        assert list(swap.plan) == [1]
        assert "block 1 is global" in repr(swap)
    with fna.swap(model("sam"), "fna", layers="0-2", landmarks=8) as swap:
        assert list(swap.plan) == [0, 1, 2]
    with pytest.raises(UserError, match=r"layers=all: these blocks all attend in windows"):
        fna.swap(sam(global_attn_indexes=()), "fna", layers="all")


def test_a_plan_gives_ranges_a_method_each() -> None:
    net = model("torchvision")
    mine = FastNystrom(landmarks=4)
    with fna.swap(net, {"0-1": "exact", 2: mine}) as swap:
        assert swap.plan == {0: Exact(), 1: Exact(), 2: mine}
    with fna.swap(net, {"0": "exact", "1-2": "fna"}, landmarks=5) as swap:
        assert swap.plan[2].landmarks == 5  # type: ignore[attr-defined]
    for plan, message in (
        ({"0-1": "exact", "1-2": "fna"}, "attn: names block 1 twice"),
        ({}, "names no block"),
        ({"0-9": "fna"}, "this model has blocks 0-2"),
        ({"0": "fnaa"}, "did you mean fna"),
    ):
        with pytest.raises(UserError, match=message):
            fna.swap(net, plan)
    with pytest.raises(UserError, match="a plan says which blocks itself"):
        fna.swap(net, {"0": "exact"}, layers="all")


def seam(module: nn.Module, attend, x: Tensor) -> Tensor:
    q, k, v = module.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    return module.out(attend(q, k, v).transpose(1, 2).flatten(2))


@torch.inference_mode()
def test_somebodys_own_attention_by_a_seam_and_blocks() -> None:
    torch.manual_seed(0)
    net, x = Own().eval(), images()
    stock = net(x)
    for op, tolerance in ((Exact(), 1e-5), (LIMIT, 1e-4)):
        with fna.swap(net, op, blocks=net.layers, seam=seam, layers="all", grid=(4, 4)) as swap:
            torch.testing.assert_close(net(x), stock, atol=tolerance, rtol=0)
            assert len(swap.plan) == 3
    assert torch.equal(net(x), stock)
    assert current_swap(model("beit")) is None


@torch.inference_mode()
def test_blocks_alone_where_they_call_torch() -> None:
    class Calls(Plain):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = Own()
    net.layers = nn.ModuleList([Calls(), Calls(), nn.Linear(32, 32)])
    x, stock = images(), net.eval()(images())
    with fna.swap(net, LIMIT, blocks=net.layers[:2], layers="all"):
        torch.testing.assert_close(net(x), stock, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match=r"block 2 \(Linear\) should call torch's attention in one place and has none"):
        fna.swap(net, "fna", blocks=net.layers)


class Crossing(nn.Module):
    """A decoder's block: it asks another sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.lin(x)[:, None], x[:, None, :5], x[:, None, :5])[:, 0]


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lambda: timm.create_model("convnext_atto", num_classes=0), {}, "ConvNeXt holds no vision transformer .* no attention"),
        (lambda: torch.compile(model("beit")), {}, "already compiled"),
        (lambda: model("beit"), {"prefix": -1}, "prefix=-1: give how many tokens"),
        (lambda: model("beit"), {"grid": (0, 3)}, r"grid=\(0, 3\)"),
        (lambda: model("beit"), {"seam": seam}, "give blocks="),
        (lambda: model("beit"), {"blocks": [nn.Linear(1, 1)]}, "give modules of this Beit"),
        (lambda: model("beit"), {"blocks": [model("beit").blocks[0]] * 2}, "names a module twice"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(build, options, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        fna.swap(build(), "fna", layers="all", **options)
    assert "\n" not in str(error.value)


@torch.inference_mode()
def test_wrong_input_that_a_pass_shows_or_the_tower_itself() -> None:
    net = model("beit")
    with pytest.raises(UserError, match=r"prefix=40: this timm.Beit has 17 tokens"):
        fna.swap(net, "fna", prefix=40, landmarks=4)
    crossing = nn.Sequential(Crossing(), Crossing())
    with fna.swap(crossing, "exact", layers="all"), pytest.raises(UserError, match=r"16 queries and 5 keys"):
        crossing(torch.randn(2, 16, 32))
    with fna.swap(net, "fna", layers="all", landmarks=4), pytest.raises(UserError, match="already changed"):
        fna.swap(net, "fna")
    with fna.swap(net, "fna", layers="all", landmarks=8, reduce="tome"), pytest.raises(UserError, match="relative positions of 17"):
        net(pixels("beit"))
    with pytest.raises(UserError, match="does not know its norms and MLP"), fna.swap(model("sam"), "fna", reduce="tome"):
        model("sam")(pixels("sam"))


@torch.inference_mode()
def test_torchvisions_blocks_can_be_taken_apart() -> None:
    net, x = model("torchvision"), pixels("torchvision")
    stock = net(x)
    with fna.swap(net, "exact", layers="all", reduce="tome") as swap:
        out = net(x)
    assert swap.tower.prefix == 1
    assert out.shape == stock.shape
    assert not torch.equal(out, stock)


def test_a_tower_compiled_in_place_is_refused() -> None:
    net = liven(VisionTransformer(**SMALL))
    net.blocks[1].compile()
    with pytest.raises(UserError, match="already compiled"):
        fna.swap(net, "fna")
