"""A timm vision transformer and its transform at an image size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fna.errors import UserError
from fna.models.hf_files import inner, model_config
from fna.models.settings import resampled, resampling_note


def exact(data: dict[str, Any], size: tuple[int, ...]) -> dict[str, Any]:
    """``data`` with a share that timm, which rounds down, makes the nearest whole side of: 232 px from 224 / (224 / 232)."""
    side = max(size) / data["crop_pct"]
    near = abs(side - round(side)) < 1e-6
    return {**data, "crop_pct": data["crop_pct"] * (1 - 1e-9)} if near else data


def said(folder: Path | None) -> tuple[int, int] | None:
    """(rows, columns) in px as timm's config.json beside the weights says; None where it does not."""
    if folder is None:
        return None
    size = inner(model_config(folder), "pretrained_cfg", folder / "config.json").get("input_size")
    if not isinstance(size, list) or len(size) != 3 or not all(isinstance(side, int) and side > 0 for side in size):
        return None
    return size[1], size[2]


def grid(net: Any, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """(rows, columns) of patches of an image of ``size`` (rows, columns in px); None for None."""
    patch = net.patch_embed.patch_size
    return None if size is None else (size[0] // patch[0], size[1] // patch[1])


def resize(net: Any, size: tuple[int, ...], name: str, positions: str | None) -> tuple[str, str] | None:
    """Position embedding and grid for ``size`` (rows, columns in px): how the table was resampled and a note on it, if it was."""
    if tuple(net.patch_embed.img_size or ()) == size:
        return None
    patch = net.patch_embed.patch_size
    if any(side % step or side < step for side, step in zip(size, patch, strict=True)):
        raise UserError(f"image_size={list(size)}: {name} has patches of {patch[0]} px; give multiples of {patch[0]}.")
    if not hasattr(net, "set_input_size"):
        if not net.patch_embed.strict_img_size:  # SAM: its positions are resampled in each pass
            net.patch_embed.set_input_size(img_size=size)
            return None
        raise UserError(f"image_size={list(size)}: timm cannot change the input size of {name}; leave image_size=null.")
    table, old = net.pos_embed, tuple(net.patch_embed.grid_size)
    net.set_input_size(img_size=size)
    new = tuple(net.patch_embed.grid_size)
    if table is None or new == old:
        return None
    how = positions or "timm"
    if how != "timm":
        net.pos_embed = resampled(table, old, new, table.shape[1] - old[0] * old[1], how)
    other = "model.positions=" + ("transformers" if how == "timm" else "timm")
    return how, resampling_note(old, new, how, other)
