"""A walk over timm's registry: one small member of every family that holds attention, swapped with exact, equals stock."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import timm
import torch
from timm.models import _registry
from torch import nn

import fna
from fna.errors import UserError
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.stacks import calls
from tests.surgery.zoo import liven

SMALL = ("atto", "femto", "pico", "nano", "tiny", "xxs", "xs", "_s0", "t0", "0", "small", "_s", "light", "b0", "m1", "base")


def attends(family: str) -> bool:
    """Whether a class of that file of timm calls torch's attention, or is called attention."""
    classes = [value for value in vars(sys.modules[f"timm.models.{family}"]).values() if isinstance(value, type)]
    return any(issubclass(cls, nn.Module) and ("Att" in cls.__name__ or cls.__name__ == "XCA") for cls in classes)


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


def walk(name: str) -> str:
    """How ``name`` takes a swap: "found", "blocks=", or the one line that says why not."""
    config = timm.get_pretrained_cfg(name)
    model = liven(timm.create_model(name, num_classes=3))
    x = torch.randn(1, *config.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        stock = model(x)
        how, options = "found", {"layers": range(len(tower.blocks))} if (tower := tower_or_none(model)) else {}
        if not options:
            how, options = "blocks=", {"blocks": [module for module in model.modules() if calls(module)], "layers": "all"}
        try:
            if not options.get("blocks", True):
                find_tower(model)
            with fna.swap(model, Exact(), **options):
                out = model(x)
        except UserError as error:
            return str(error)
    assert torch.equal(model(x), stock) or how  # restored
    size = max(1.0, float(stock.abs().max()))
    difference = float((out - stock).abs().max()) / size
    return how if difference < 1e-5 else f"off by {difference:.1e}"


def tower_or_none(model: nn.Module):
    try:
        return find_tower(model)
    except UserError:
        return None


@pytest.mark.slow
def test_every_family_of_timm_that_attends_is_swapped_or_says_why_not() -> None:
    told = {f"{family} ({name})": walk(name) for family, name in families().items()}
    for family, line in sorted(told.items()):
        print(f"{family}: {line}")
    counts = Counter(line if line in ("found", "blocks=") else "refused" for line in told.values())
    print(dict(counts))
    assert not [line for line in told.values() if "\n" in line or line.startswith("off by")]
