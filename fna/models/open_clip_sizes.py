"""Image sizes of open_clip's towers: what tokens an image has, and position tables resampled for another size."""

from __future__ import annotations

from typing import Any

from torch import nn

from fna.errors import UserError
from fna.models import open_clip_files
from fna.models.settings import resampled, resampling_note
from fna.ops.contract import Tokens
from fna.surgery.resolution import set_image_size


def check_multiple(name: str, size: tuple[int, int], patch: int) -> None:
    """Raise `UserError` for an image ``size`` that patches do not fill."""
    if any(side % patch or side < patch for side in size):
        raise UserError(f"image_size={list(size)}: {name} has patches of {patch} px; give multiples of {patch}.")


def resize(net: Any, size: tuple[int, int], positions: str | None) -> tuple[str, str] | None:
    """The image tower for ``size``: how its position table was resampled and a note on it, if it was."""
    holder, name = (net.visual.trunk, "pos_embed") if hasattr(net.visual, "trunk") else (net.visual, "positional_embedding")
    table, old = getattr(holder, name, None), open_clip_files.layout(net.visual)[0]
    set_image_size(net, size)
    new = open_clip_files.layout(net.visual)[0]
    if table is None or new == old:
        return None
    how = positions or "timm"
    if how != "timm":
        flat = table if table.dim() == 3 else table[None]
        made = resampled(flat, old, new, flat.shape[1] - old[0] * old[1], how)
        setattr(holder, name, made if table.dim() == 3 else nn.Parameter(made[0].clone(), table.requires_grad))
    other = "model.positions=" + ("transformers" if how == "timm" else "timm")
    return how, resampling_note(old, new, how, other)


def tokens_of(visual: Any, name: str) -> tuple[Tokens, int, int]:
    """Token layout, number of blocks and patch size of an image tower, open_clip's own or timm's."""
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
        grid = tuple(trunk.patch_embed.grid_size)
        return Tokens(prefix=trunk.num_prefix_tokens, grid=grid), len(trunk.blocks), trunk.patch_embed.patch_size[0]
    if hasattr(visual, "transformer") and hasattr(visual, "grid_size"):
        grid = tuple(visual.grid_size)
        return Tokens(prefix=1, grid=grid), len(visual.transformer.resblocks), visual.patch_size[0]
    raise UserError(f"model.name={name}: its image tower is no vision transformer; choose a ViT.")
