"""Leftovers of faults by kind: attention under checkpointing, pruned blocks, interruptions, reports, files of other tools."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fna
from fna.data.imagefolder import ImageFolder
from fna.data.layouts import RECIPES
from fna.data.segmentation import LabelMaps
from fna.errors import NEEDED, not_installed
from fna.models import checkpoint_files
from fna.models.timm import TimmModel

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


def vit(depth: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 64, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**{**sizes, "depth": depth, **options}).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


# Gradient checkpointing


def gradient(op: str, reentrant: bool | None, **options: Any) -> Tensor:
    model = vit()
    with fna.swap(model, op, layers="all", landmarks=16, **options):
        x = model.patch_embed(images()).detach().requires_grad_()
        for block in model.blocks:
            x = block(x) if reentrant is None else checkpoint(block, x, use_reentrant=reentrant)
        x.square().mean().backward()
    return torch.cat([weight.grad.flatten() for weight in model.blocks.parameters()])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("op", "options"), [("nystromformer", {}), ("fna", {"sampler": "uniform"})])
def test_a_block_that_runs_again_has_the_same_gradient_where_landmarks_hang_on_no_block(
    op: str, options: dict[str, Any], reentrant: bool
) -> None:
    torch.testing.assert_close(gradient(op, reentrant, **options), gradient(op, None, **options), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"op": "fna_local"}, "draws other landmarks"),  # groups go on from those of the block before
        ({"op": "fna_plus"}, "draws other landmarks"),
        ({"op": "low_rank", "reduce": "tome"}, "does not know which tokens were merged"),  # torch said that shapes differ
    ],
)
def test_one_whose_landmarks_or_tokens_come_from_earlier_blocks_is_refused_with_why(options: dict[str, Any], why: str) -> None:
    with pytest.raises(fna.UserError, match=f"block 3 runs again in the backward pass.* and {why}.*: turn it off"):
        gradient(reentrant=False, **options)


# Pruned blocks


class Skip(nn.Module):
    """What people put in the place of attention, or of a block, that they pruned; transformers unpacks two of an attention."""

    def forward(self, x: Any = None, *args: Any, hidden_states: Any = None, **kwargs: Any) -> Any:
        return x if hidden_states is None else (torch.zeros_like(hidden_states), None)


def of_timm() -> tuple[Any, Any]:
    model = vit(6)
    return model, model.blocks


def of_torchvision() -> tuple[Any, Any]:
    model = torchvision.models.VisionTransformer(64, 8, 6, 2, 64, 128).eval()
    return model, model.encoder.layers


def of_transformers() -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 128}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=64, patch_size=8)).eval()
    return model, next(part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == 6)


@pytest.mark.parametrize("make", [of_timm, of_torchvision, of_transformers])
@pytest.mark.parametrize("put", [nn.Identity, Skip])
def test_a_pruned_block_keeps_its_number_and_stays_as_it_is(
    make: Callable[[], tuple[Any, Any]], put: Callable[[], nn.Module]
) -> None:
    """One that stood outside the chosen layers was refused; of transformers the later blocks went by a smaller number unasked."""
    model, blocks = make()
    if put is nn.Identity and make is of_transformers:
        blocks[1].attention = Skip()
    else:
        blocks[1] = put()
    for layers, chosen in (("last-half", [3, 4, 5]), ("all", [0, 2, 3, 4, 5]), ([5], [5])):
        with torch.no_grad(), fna.swap(model, "fna", layers=layers, landmarks=8) as swap:
            model(images())
        assert list(swap.plan) == chosen
        assert "no attention is left in block 1," in repr(swap)
    with pytest.raises(fna.UserError, match=r"no attention is left in block 1 \(.*which somebody pruned: leave it out of layers="):
        fna.swap(model, "fna", layers="0-2")


def test_a_block_of_ones_own_run_may_be_pruned_too() -> None:
    model = nn.Sequential(*(nn.TransformerEncoderLayer(64, 2, 128, batch_first=True) for _ in range(4))).eval()
    model[2] = nn.Identity()
    with torch.no_grad(), fna.swap(model, "fna", layers="all", landmarks=8) as swap:
        model(torch.randn(2, 65, 64))
    assert list(swap.plan) == [0, 1, 3]


# Landmarks of NaN


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_landmarks_of_what_has_no_distance_are_refused_unless_those_tokens_are_left_out(bad: float) -> None:
    """They were tokens 0, 1, 2 and so on."""
    x = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    broken, drop = x.clone(), torch.zeros(2, 20, dtype=torch.bool)
    broken[1, 3], drop[1, 3] = bad, True
    with pytest.raises(fna.UserError, match=r"method=fps measures distances, and x holds NaN or numbers beyond 1e\+15"):
        fna.sample_landmarks(broken, 5)
    assert torch.equal(fna.sample_landmarks(broken, 5, drop=drop), fna.sample_landmarks(x, 5, drop=drop))
    assert fna.sample_landmarks(broken, 5, "random").shape == (2, 5)


# Classes that inherit nn.MultiheadAttention


class Passed(nn.MultiheadAttention):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class Gated(nn.MultiheadAttention):
    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        out, weights = super().forward(query, *args, **kwargs)
        return out * torch.sigmoid(query), weights


class Attends(nn.Module):
    def __init__(self, kind: type[nn.MultiheadAttention], batch_first: bool) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(64), kind(64, 2, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        y = self.norm(x if self.batch_first else x.transpose(0, 1))
        y = self.attn(y, y, y, key_padding_mask=hidden, need_weights=False)[0]
        return x + (y if self.batch_first else y.transpose(0, 1))


class Run(nn.Module):
    def __init__(self, *given: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Attends(*given) for _ in range(3))

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, hidden)
        return x


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_a_class_that_inherits_torchs_attention_and_calls_it_is_changed_as_that_is(batch_first: bool, padded: bool) -> None:
    """It was refused as unknown to fna, though its forward only calls ``super().forward``."""
    x = torch.randn(2, 65, 64, generator=torch.Generator().manual_seed(3))
    hidden = torch.zeros(2, 65, dtype=torch.bool)
    hidden[1, 50:] = padded
    given = (x, hidden if padded else None)
    with torch.no_grad():
        for kind in (nn.MultiheadAttention, Passed, Gated):
            model = Run(kind, batch_first).eval()
            stock = model(*given)
            with fna.swap(model, "exact", layers="all"):
                torch.testing.assert_close(model(*given), stock, atol=2e-5, rtol=1e-4)
            with fna.swap(model, "fna", layers="all", landmarks=8):
                changed = model(*given)
            if kind is nn.MultiheadAttention:
                plain = changed
            elif kind is Passed:
                torch.testing.assert_close(changed, plain, atol=2e-5, rtol=1e-4)
            assert not torch.allclose(changed, stock, atol=1e-3)


# ^C in scripts


@pytest.mark.parametrize("script", sorted(path.stem for kind in ("train", "measure") for path in SCRIPTS.glob(f"{kind}_*.py")))
def test_a_training_or_a_measurement_that_is_interrupted_ends_in_a_line(script: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    call = [sys.executable, str(SCRIPTS / f"{script}.py")]
    found = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 130
    assert re.fullmatch(r"interrupted: the same command .*\n", found.stderr)


def test_weights_that_were_half_written_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    recipe = importlib.import_module("train_clip_shapes")

    def stopped(state: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "HOME", tmp_path)
    monkeypatch.setattr(recipe, "save_file", stopped)
    (tmp_path / "model.safetensors").write_bytes(b"whole")
    torch.save({"model": {"w": torch.zeros(2)}, "step": 1, "log": []}, tmp_path / "last.pt")
    with pytest.raises(KeyboardInterrupt):
        recipe.export(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"whole"


# Attention that is set anew inside a swap


def test_attention_that_transformers_was_told_to_run_since_the_swap_is_named_as_the_cause() -> None:
    model, _ = of_transformers()
    with torch.no_grad(), fna.swap(model, "fna", layers="all", landmarks=8):
        model.set_attn_implementation("eager")
        with pytest.raises(fna.UserError, match=r"runs attention 'eager', as set_attn_implementation set it since fna\.swap"):
            model(images())
    assert model.config._attn_implementation == "sdpa"


# What lines say of other tools' files, of one's own, and of packages


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (hash(path) % 200, 0, 0)).save(root / path)
    return root


def test_a_split_that_was_not_typed_is_found_as_roboflow_calls_it_or_told_as_not_typed(tmp_path: Path) -> None:
    """The line said ``dataset.split=val``, which nobody had typed."""
    places = [f"{part}/{kind}/{name}.png" for part in ("train", "valid", "test") for kind in ("cat", "dog") for name in "ab"]
    data = ImageFolder(str(tree(tmp_path / "robo", *places))).load(None)
    assert (data.split, len(data.examples)) == ("valid", 4)
    with pytest.raises(fna.UserError, match=r"dataset.split is not typed, and means val: no such folder in .*is test, train"):
        ImageFolder(str(tree(tmp_path / "two", *(place for place in places if "valid" not in place)))).load(None)


def test_a_root_that_is_not_there_points_to_the_script_only_for_what_that_makes() -> None:
    with pytest.raises(fna.UserError, match=r"no such folder \(looked from .*\); give the place of the data"):
        LabelMaps("label_maps", "nowhere", "val", "images/{name}.png", "labels/{name}.png", ["a", "b"]).check()
    recipes = re.findall(r'^    "(\w+)": Recipe', (SCRIPTS / "prepare_recipes.py").read_text(), re.MULTILINE)
    assert list(RECIPES) == recipes


def test_a_checkpoint_that_is_cut_off_may_be_ones_own(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "mine.pt")
    for length in (0, 1000):
        (tmp_path / "mine.pt").write_bytes((tmp_path / "mine.pt").read_bytes()[:length])
        with pytest.raises(fna.UserError, match="fetch it again, or save it anew where it is your own"):
            checkpoint_files.load(tmp_path / "mine.pt")
        torch.save({"w": torch.zeros(1000)}, tmp_path / "mine.pt")


def test_fna_without_no_deps_is_named_for_packages_that_it_brings_along() -> None:
    assert (
        str(not_installed("a", ModuleNotFoundError(name="my_method")))
        == "a needs my_method, which is not installed here; install it."
    )
    assert "or fna without --no-deps" in str(not_installed("a", ModuleNotFoundError(name="timm.layers")))
    needed = re.findall(r'^  "([\w-]+)>', (ROOT / "pyproject.toml").read_text().partition("\n]")[0], re.MULTILINE)
    called = {"hydra-core": "hydra", "open_clip_torch": "open_clip", "pillow": "PIL", "torch-quickfps": "torch_quickfps"}
    assert {called.get(name, name) for name in needed} == NEEDED


# What timm's train.py writes beside the weights


def trained(folder: Path, made: dict[str, Any], **said: Any) -> Path:
    """A checkpoint as it leaves one, of a network of timm's that was made with ``made``."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2, **made)
    args = argparse.Namespace(model="vit_tiny_patch16_224", num_classes=3, **said)
    torch.save({"epoch": 1, "state_dict": net.state_dict(), "args": args}, folder / "pytorch_model.bin")
    torch.save(net, folder / "net.pt")
    return folder / "pytorch_model.bin"


def run_of(place: Path, size: int | None = None) -> Any:
    return TimmModel("vit_tiny_patch16_224", checkpoint=str(place)).build(image_size=size, device="cpu", dtype="float32", seed=0)


def told(file: Path, size: int | None = None) -> str:
    return " ".join(note for note in run_of(file, size).notes if "says that it" in note)


def test_options_that_no_tensor_shows_are_told_with_what_follows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six heads were run as three, and tanh's GELU as the other, without a word."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **more: create(*args, **{"depth": 2, **more}))
    made = {"num_heads": 6, "act_layer": "gelu_tanh", "drop_path_rate": 0.1}
    note = told(trained(tmp_path / "a", made, model_kwargs=made, img_size=None))
    assert "made with num_heads=6, act_layer=gelu_tanh, which no tensor shows and this one was not" in note
    (config,) = re.findall(r"config\.json of (\{.*\}) follows it", note)
    (tmp_path / "a" / "config.json").write_text(config)
    model = run_of(tmp_path / "a")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model.classify(x), torch.load(tmp_path / "a" / "net.pt", weights_only=False).eval()(x))
    assert "says that its network" not in " ".join(model.notes)


def test_a_size_and_a_pooling_that_it_was_trained_with_are_told_where_they_are_others(tmp_path: Path) -> None:
    said = {"img_size": 288, "model_kwargs": {"global_pool": "avg", "of_another_script": 3}}
    torch.save(
        {"state_dict": timm.create_model("vit_tiny_patch16_224", num_classes=3).state_dict(), "args": said}, tmp_path / "a.pt"
    )
    assert "trained on 288 x 288 px, and is run at 224 x 224: image_size=288 follows it" in told(tmp_path / "a.pt")
    assert "model.pool=avg follows it" in told(tmp_path / "a.pt")
    assert "px" not in told(tmp_path / "a.pt", 288)
