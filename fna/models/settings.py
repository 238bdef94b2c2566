"""How weights are run beside what they are: activation, pixels, position table; in words, and how to say otherwise."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fna.surgery.blocks import Tower

UNSAID = ("tokenizer", "architecture")  # digests: part of a row's key, and nothing to read
ACTIVATIONS = (nn.GELU, nn.SiLU, nn.ReLU)
Grid = tuple[int, int]


def resampled(table: Tensor, old: Grid, new: Grid, prefix: int, how: str) -> nn.Parameter:
    """A position table ``[1, prefix + N, D]`` for another grid: bicubic, antialiased or not.

    ``how``: as "timm" (and open_clip) does, antialiased, or as "transformers".
    In float32: there is no bicubic resampling in half precision on a CPU.
    """
    from timm.layers import resample_abs_pos_embed

    made = resample_abs_pos_embed(
        table.detach().float(), new_size=list(new), old_size=list(old), num_prefix_tokens=prefix, antialias=how == "timm"
    )
    return nn.Parameter(made.to(table.dtype), requires_grad=table.requires_grad)


def has_table(tower: Tower) -> bool:
    """Whether positions are a table, which another grid has to be resampled to; rotary ones alone are computed for any."""
    return not tower.rotary or any(re.search("position|pos_embed|rel_pos", name) for name, _ in tower.module.named_parameters())


def resampling_note(old: Grid, new: Grid, how: str, other: str) -> str:
    """What was done to the position table, and how to have it done as the other library does."""
    ways = {"timm": "antialiased, as timm and open_clip do", "transformers": "not antialiased, as transformers does"}
    return (
        f"position table resampled from {old[0]}x{old[1]} to {new[0]}x{new[1]} (bicubic, {ways[how]}; "
        f"the other way gives features that differ by percents: {other})"
    )


def unresampled_note(positions: str | None) -> list[str]:
    """That a way of resampling was asked for where nothing had to be resampled."""
    if positions is None:
        return []
    return [f"model.positions={positions} changes nothing here: the position table is used at its own size"]


def table_grid(tokens: int, prefix: int, asked: Grid | None) -> Grid | None:
    """The grid of a position table of ``tokens`` rows: the one asked for if it fits, else a square; None where neither does."""
    places = tokens - prefix
    if asked is not None and math.prod(asked) == places:
        return asked
    side = math.isqrt(max(places, 0))
    return (side, side) if side and side * side == places else None


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of the activations of MLPs."""
    return isinstance(module, ACTIVATIONS) or "GELU" in type(module).__name__


def activation_name(module: nn.Module) -> str:
    """An activation by its class: QuickGELU, GELU, GELU (tanh), ReLU, SiLU."""
    name = type(module).__name__
    if "quick" in name.lower():
        return "QuickGELU"
    return f"{name} (tanh)" if getattr(module, "approximate", None) == "tanh" else name


def activation_of(tower: nn.Module) -> str:
    """The activations in a tower."""
    names = {activation_name(module) for module in tower.modules() if is_activation(module)}
    return "QuickGELU" if "QuickGELU" in names else ", ".join(sorted(names)) or "no activation of its own"


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as a phrase: "QuickGELU, mean 0.481 0.458 0.408, std ..., bicubic, shorter side"."""
    said = []
    for key, value in settings.items():
        if value is None or key in UNSAID:
            continue
        if key in ("mean", "std"):
            said.append(f"{key} {' '.join(f'{number:.3g}' for number in value)}")
        elif key in ("activation", "interpolation"):
            said.append(str(value))
        else:
            said.append(f"{key} {_plain(value)}")
    return ", ".join(said)


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "x".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def otherwise(knobs: Mapping[str, str]) -> str:
    """How to say otherwise: each knob with a value as an example."""
    return ", ".join(f"model.{key}={value}" for key, value in knobs.items())
