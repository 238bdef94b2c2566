"""Models in other people's code: adapters, hooks, patches, scripts and copies round a swap. What runs is what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fna
from fna.ops import inverse, nystrom

SIDE = 96  # pixels: 6 x 6 patches and CLS


def vit() -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=4, embed_dim=64, num_heads=2, img_size=SIDE, num_classes=10).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """Attention written out, as DINO has it, with a dropout that others hook to see its weights."""

    def __init__(self, keep: Callable[[Any, Tensor], None] | None = None) -> None:
        super().__init__()
        self.qkv, self.attn_drop, self.proj, self.keep = nn.Linear(64, 192), nn.Dropout(0.0), nn.Linear(64, 64), keep

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((q @ k.transpose(-2, -1) * 32**-0.5).softmax(dim=-1))
        if self.keep is not None:
            self.keep(self, weights)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(64), attn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm(x))


class Own(nn.Module):
    """A vision transformer of one's own."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 64, 16, 16)
        self.blocks = nn.ModuleList([Block(make()) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


def swapped(model: nn.Module, attn: str = "fna", **options: Any) -> Tensor:
    with torch.no_grad(), fna.swap(model, attn, **{"layers": "all", **({} if attn == "exact" else {"landmarks": 16}), **options}):
        return model(images())


@pytest.mark.parametrize(
    ("home", "name"),
    [(nystrom, name) for name in ("fast_nystrom", "through_landmarks", "landmark_block", "apply_inverse")] + [(inverse, "_newton")],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_function_that_somebody_puts_in_the_place_of_one_of_fnas_runs_in_every_block(
    home: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our kernels do in one what these say: they passed over it, and its figures were those of fna's own."""
    own, ran = getattr(home, name), []
    model, wanted = vit(), swapped(vit())
    monkeypatch.setattr(home, name, lambda *args, **kwargs: ran.append(name) or own(*args, **kwargs))
    torch.testing.assert_close(swapped(model), wanted, atol=1e-5, rtol=1e-4)
    assert len(ran) == 4


def test_a_recorder_round_torchs_attention_hides_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    own, heard = F.scaled_dot_product_attention, []
    model, wanted = Own(Fused).eval(), swapped(Own(Fused).eval())
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kwargs: heard.append(1) or own(*args, **kwargs))
    assert torch.equal(swapped(model), wanted)
    assert heard


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_that_waits_for_attention_weights_is_told_that_changed_blocks_make_none(hook: str) -> None:
    """Attention rollout over what such hooks gathered was over half of the blocks."""
    model, heard = vit(), []
    for block in model.blocks:
        block.attn.fused_attn = False
        getattr(block.attn.attn_drop, hook)(lambda *_: heard.append(1))
    with pytest.warns(UserWarning, match="block 2 is changed by fna and makes no attention weights: the hook on its") as told:
        swapped(model, layers="last-half")
    assert len(heard) == 2
    assert len([one for one in told if "attention weights" in str(one.message)]) == 1


@pytest.mark.filterwarnings("error")
def test_a_hook_that_stock_attention_would_not_call_either_is_not_told() -> None:
    model = vit()
    for part in model.modules():
        part.register_forward_hook(lambda *_: None)
    swapped(model)


def _reads(module: Any, weights: Tensor) -> None:
    module.map = weights.mean(1)


@pytest.mark.parametrize("way", ["hook", "code"])
def test_weights_that_are_read_where_attention_is_written_out_are_told_to_be_those_of_exact_attention(way: str) -> None:
    """They were handed over without a word while another attention ran."""
    model = Own(lambda: Written(_reads if way == "code" else None)).eval()
    if way == "hook":
        model.blocks[2].attn.attn_drop.register_forward_hook(lambda module, args, out: _reads(module, out))  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match=r"\(Written\): mean\(\) reads attention weights, which fna does not make"):
        swapped(model)


def test_patches_of_which_some_are_hidden_lie_on_no_grid() -> None:
    """A MAE leaves 16 of 64 patches, drawn at random: they were taken for a square of 4 x 4."""
    from transformers import ViTMAEConfig, ViTMAEModel

    from fna.ops.exact import Exact
    from fna.surgery.swap import swap_tower

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 128}
    model, seen = ViTMAEModel(ViTMAEConfig(**sizes)).eval(), []

    class Watch(Exact):
        def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any) -> Tensor:
            seen.append((k.shape[2], site.tokens.grid))
            return super().__call__(q, k, v, site)

    with torch.no_grad(), swap_tower(model, {0: Watch()}):
        model(torch.zeros(1, 3, 128, 128))
        model.config.mask_ratio = 0.0
        model(torch.zeros(1, 3, 128, 128))
    assert seen == [(17, None), (65, (8, 8))]


def test_copies_that_data_parallel_makes_are_refused() -> None:
    """A copy on another device ran on the original's weights."""
    model = vit()
    with torch.no_grad(), fna.swap(model, layers="all"):
        block = model.blocks[0]._replicate_for_data_parallel()
        with pytest.raises(fna.UserError, match=r"nn\.DataParallel runs copies .*DistributedDataParallel"):
            block(torch.zeros(1, 37, 64))
        model(images())
    assert torch.equal(swapped(nn.DataParallel(vit())), swapped(vit()))  # without a GPU it makes none


def test_scripting_a_changed_model_is_refused_with_the_way_round() -> None:
    """It ended in a RuntimeError about a type in a file of fna."""
    model = vit()
    with fna.swap(model), pytest.raises(fna.UserError, match=r"use torch\.jit\.trace in"):
        torch.jit.script(model)
    torch.jit.script(model)


def test_a_folder_that_is_saved_inside_the_block_holds_nothing_of_fna(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
    model = ViTModel(ViTConfig(**sizes)).eval()
    with fna.swap(model, layers="all"):
        model.save_pretrained(tmp_path)
    assert "fna" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


class Adapter(nn.Module):
    """What somebody puts round an attention: it scales its answers."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.gain = base, nn.Parameter(torch.tensor(0.9))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.base(*args, **kwargs)
        return (self.gain * out[0], *out[1:]) if isinstance(out, tuple) else self.gain * out


def open_clip_tower() -> nn.Module:
    from open_clip.transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(SIDE, 16, 64, 4, 2, 4.0, output_dim=32).eval()


@pytest.mark.parametrize("make", [vit, open_clip_tower])
def test_an_attention_in_a_wrapper_is_changed_and_the_wrapper_runs_as_it_is(make: Callable[[], Any]) -> None:
    """Such as the LoRA that peft puts round `nn.MultiheadAttention`; it was refused as unknown."""
    model = make()
    for block in model.blocks if hasattr(model, "blocks") else model.transformer.resblocks:
        block.attn = Adapter(block.attn)
    with torch.no_grad():
        stock = model(images())
    torch.testing.assert_close(swapped(model, "exact"), stock, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(swapped(model), stock, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(model(images()), stock)


def test_a_wrapper_that_attends_itself_beside_the_one_in_it_is_refused() -> None:
    class Both(Adapter):
        def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
            return self.base(x, **kwargs) + torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", x, x).softmax(-1), x)

    model = vit()
    for block in model.blocks:
        block.attn = Both(block.attn)
    with pytest.raises(fna.UserError, match=r"Both is unknown to fna"):
        fna.swap(model, layers="all")


def test_blocks_that_never_ran_are_a_users_error() -> None:
    """All that a user can mend is one."""
    model = vit()
    with pytest.raises(fna.UserError, match=r"blocks \[2, 3\] were changed but never ran"), torch.no_grad(), fna.swap(model):
        model.forward_intermediates(images(), indices=[0], stop_early=True, intermediates_only=True)


def test_a_comparison_under_autocast_says_so_and_one_without_weights_is_refused() -> None:
    loader = DataLoader(TensorDataset(images(8), torch.arange(8)), batch_size=8)
    options: dict[str, Any] = {"landmarks": 16, "layers": "all", "rounds": 0, "bootstrap": 100}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "torch.autocast is on" in str(fna.compare(vit(), loader, "fna", **options))
    assert "torch.autocast" not in str(fna.compare(vit(), loader, "fna", **options))
    with pytest.raises(fna.UserError, match="meta device, where it has no weights"):
        fna.compare(vit().to("meta"), loader, "fna", **options)


class Chunk(nn.ModuleList):
    """Some of the blocks, as DINOv2 has them for sharding: identities stand for those before."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x)
        return x


def test_blocks_that_stand_in_no_list_of_their_kind_are_told_to_stay_as_they_are() -> None:
    """Of two chunks the first was changed alone, by layers="all" and without a word."""
    model = Own(Written).eval()
    blocks = list(model.blocks)
    model.blocks = nn.ModuleList([Chunk(blocks[:2]), Chunk([nn.Identity(), nn.Identity(), *blocks[2:]])])
    said = r"2 Block of this Own stand in one list .* 2 more \(blocks\.1\.2, blocks\.1\.3\) do not and stay as they are"
    with pytest.warns(UserWarning, match=said):
        fna.swap(model, layers="all").restore()
    assert torch.equal(swapped(model, blocks=blocks), swapped(Own(Written).eval()))
