"""Run a model at another image size: positions are resampled by the library that the model comes from."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from fna.errors import UserError
from fna.surgery.blocks import Tower, find_tower


def set_image_size(model: nn.Module, size: int | tuple[int, int]) -> dict[str, Any]:
    """Make the vision tower of ``model`` take images of ``size`` pixels, (height, width) or one number for a square.

    timm and open_clip towers are changed in place and for good (their position parameter is a new one); transformers resamples
    on the fly. Returns the keyword arguments that each forward then needs. Raises `UserError` for a size that does not divide
    into patches or a grid that the library cannot resample.
    """
    tower = find_tower(model)
    height, width = (size, size) if isinstance(size, int) else size
    patch = patch_size(tower)
    if min(height, width) < 1 or height % patch[0] or width % patch[1]:
        shown = f"{height}" if height == width else f"{height}x{width}"
        raise UserError(f"image_size={shown}: this model's patches are {patch[0]}x{patch[1]} pixels; use a multiple of that.")
    if tower.family == "timm":
        if not getattr(tower.module, "dynamic_img_size", False):
            tower.module.set_input_size(img_size=(height, width))  # type: ignore[operator]
        return {}
    if tower.family == "open_clip":
        _resize_open_clip(tower, (height, width), (height // patch[0], width // patch[1]))
        return {}
    # Some resample unasked, as DINOv2; the others must be told, each time.
    told = "interpolate_pos_encoding" in inspect.signature(type(tower.module).forward).parameters
    return {"interpolate_pos_encoding": True} if told else {}


def patch_size(tower: Tower) -> tuple[int, int]:
    """(height, width) of a patch in pixels; for a hybrid stem how many pixels end up in one token."""
    module: Any = tower.module
    sides = module.patch_embed.feat_ratio(as_scalar=False) if tower.family == "timm" else tower.patches.stride  # type: ignore[union-attr]
    return int(sides[0]), int(sides[1])  # type: ignore[index]


def _resize_open_clip(tower: Tower, size: tuple[int, int], grid: tuple[int, int]) -> None:
    """open_clip resamples when it loads weights; this is the same function on weights already loaded."""
    from open_clip.model import resize_pos_embed

    visual: Any = tower.module
    old_grid, old = tuple(visual.grid_size), visual.positional_embedding
    if grid == old_grid:
        return
    if old_grid[0] != old_grid[1] or grid[0] * grid[1] == old_grid[0] * old_grid[1]:
        raise UserError(f"image_size={size[0]}x{size[1]}: open_clip resamples square grids only, and not {old_grid} to {grid}.")
    # In float32: there is no bicubic resampling in half precision on a CPU.
    state = {"visual.positional_embedding": old.detach().float()}
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=grid)))
    visual.image_size, visual.grid_size = size, grid
    visual.positional_embedding = nn.Parameter(
        state["visual.positional_embedding"].to(old.dtype).clone(memory_format=torch.contiguous_format), old.requires_grad
    )
