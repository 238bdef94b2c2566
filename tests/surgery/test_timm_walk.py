"""A walk over timm's registry: one small member of every family that holds attention, swapped with exact, equals stock."""

from __future__ import annotations

import sys
import warnings
from collections import Counter

import pytest
import timm
import torch
from timm.models import _registry
from torch import nn

import fna
from fna.errors import UserError
from fna.ops.exact import Exact
from fna.ops.nystrom import FastNystrom
from fna.surgery.blocks import find_tower
from fna.surgery.stacks import calls, named_attention
from tests.surgery.zoo import liven

LIMIT = FastNystrom(landmarks=100_000, inverse="exact")
FOUND, SWAPPED, LIMITED = 14, 30, 27  # docs/models_timm.md
SMALL = ("atto", "femto", "pico", "nano", "tiny", "xxs", "xs", "_s0", "t0", "0", "small", "_s", "light", "b0", "m1", "base")


def attends(family: str) -> bool:
    """Whether a class that this file of timm has or takes from another is called attention, or a block of a ViT."""
    classes = [value for value in vars(sys.modules[f"timm.models.{family}"]).values() if isinstance(value, type)]
    of_vit = ("VisionTransformer", "EvaBlock")
    return any(issubclass(cls, nn.Module) and (named_attention(cls) or cls.__name__ in of_vit) for cls in classes)


def families() -> dict[str, str]:
    """Family (a file of timm's models) -> one of its smallest members by timm's own registry."""
    names: dict[str, list[str]] = {}
    for name in timm.list_models():
        names.setdefault(_registry._model_to_module[name], []).append(name)
    chosen = {}
    for family, members in names.items():
        if attends(family):
            small = sorted(members, key=lambda name: next((at for at, word in enumerate(SMALL) if word in name), len(SMALL)))
            chosen[family] = small[0]
    return chosen


def built(name: str) -> nn.Module:
    """A member with fewer blocks where it takes such a wish, at random weights."""
    for wish in ({"depth": 2, "embed_dim": 192, "num_heads": 3}, {"depth": 2}, {}):
        try:
            torch.manual_seed(0)
            return timm.create_model(name, num_classes=3, **wish).eval()
        except (TypeError, ValueError, AssertionError, RuntimeError, IndexError, KeyError):
            continue
    raise AssertionError(name)


def walk(name: str) -> tuple[str, str]:
    """How ``name`` takes a swap with exact attention: "found", "blocks=", or the one line that says why not; and whether FNA
    through all tokens and a solve gives what stock gives: nothing, or the line."""
    model = built(name)
    if not any(named_attention(type(module)) or calls(module) for module in model.modules()):
        return "holds no attention", ""
    x = torch.randn(1, *timm.get_pretrained_cfg(name).input_size, generator=torch.Generator().manual_seed(0))
    how, blocks = "found", None
    try:
        tower = find_tower(model)
        depth = len(tower.blocks)
    except UserError:
        how, blocks = "blocks=", [module for module in model.modules() if calls(module)]
        depth = len(blocks)
    with torch.inference_mode():
        if "fastvit" not in name:  # whose convolutions blow up under weights as lively as that
            liven(model)
        stock = model(x)
        try:
            with fna.swap(model, Exact(), layers=range(depth), blocks=blocks or None):
                out = model(x)
        except UserError as error:
            return str(error), ""
        torch.testing.assert_close(model(x), stock)  # restored; convolutions need not give the same bits twice
        try:
            with warnings.catch_warnings(), fna.swap(model, LIMIT, layers=range(depth), blocks=blocks or None):
                warnings.simplefilter("ignore")  # that all tokens are taken
                limit = off(model(x), stock)
                refused = "" if limit < 1e-4 else f"off by {limit:.1e}"
        except UserError as error:
            refused = str(error)
    difference = off(out, stock)
    return how if difference < 1e-5 else f"off by {difference:.1e}", refused


def off(out: torch.Tensor, stock: torch.Tensor) -> float:
    """The largest difference, of the largest output or of 1."""
    return float((out - stock).abs().max()) / max(1.0, float(stock.abs().max()))


@pytest.mark.slow
def test_every_family_of_timm_that_attends_is_swapped_or_says_why_not() -> None:
    told = {f"{family} ({name})": walk(name) for family, name in families().items()}
    for family, (line, limit) in sorted(told.items()):
        print(f"{family}: {line}{f'; FNA: {limit}' if limit else ''}")
    swapped = [limit for line, limit in told.values() if line in ("found", "blocks=")]
    counts = Counter(line if line in ("found", "blocks=", "holds no attention") else "refused" for line, _ in told.values())
    print(dict(counts), f"FNA in {swapped.count('')} of {len(swapped)}")
    assert not [line for lines in told.values() for line in lines if "\n" in line or line.startswith("off by")]
    assert counts["found"] >= FOUND
    assert len(swapped) >= SWAPPED
    assert swapped.count("") >= LIMITED
