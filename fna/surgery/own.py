"""A tower that somebody names: these blocks, in this order, changed in this way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

from torch import nn

from fna.errors import UserError
from fna.surgery.blocks import BlockSpec, Tower, find_tower, tower_of
from fna.surgery.stacks import check_uncompiled

_WHOLE = BlockSpec("", norm1=None, norm2=None, pieces=False)  # a block that is its own attention


def named_tower(
    model: nn.Module,
    blocks: Sequence[nn.Module] | None = None,
    seam: Callable[..., Any] | None = None,
    prefix: int | None = None,
    grid: tuple[int, int] | None = None,
    part: str = "vision",
) -> Tower:
    """The tower of ``model`` (that ``part`` of it), or of ``blocks`` in it, with the ``prefix`` and ``grid`` that are given.

    ``seam(module, attend, *args, **kwargs)`` stands in for the forward of each of ``blocks``. Raises `UserError` for what is none.
    """
    check_uncompiled([model])
    if prefix is not None and (not isinstance(prefix, Integral) or isinstance(prefix, bool) or prefix < 0):
        raise UserError(f"prefix={prefix!r}: give how many tokens stand before the patches, a whole number of at least 0.")
    pair = isinstance(grid, tuple | list) and len(grid) == 2
    if grid is not None and not (pair and all(isinstance(side, int) and side > 0 for side in grid)):
        raise UserError(f"grid={grid!r}: give (rows, columns) of the patches.")
    if blocks is None:
        if seam is not None:
            raise UserError("seam= says how blocks are changed: give blocks=[...], the modules whose forward it stands in for.")
        tower = find_tower(model, part)
    else:
        if not isinstance(blocks, Iterable):
            raise UserError(f"blocks={blocks!r}: give a list of modules of this {type(model).__name__}, blocks=[...].")
        tower = _of_blocks(model, tuple(blocks), seam)
    count = None if tower.grid is None else tower.prefix + math.prod(tower.grid)
    if prefix is not None and count is not None and prefix >= count:
        raise UserError(f"prefix={prefix}: this {tower.kind} has {count} tokens, patches included; give a smaller one.")
    tower = replace(tower, grid=tower.grid if grid is None else grid)
    return tower if prefix is None else replace(tower, prefix=prefix, prefix_said=True)


def _of_blocks(model: nn.Module, blocks: tuple[nn.Module, ...], seam: Callable[..., Any] | None) -> Tower:
    inside = set(model.modules())
    if not blocks or not all(isinstance(block, nn.Module) and block in inside for block in blocks):
        raise UserError(f"blocks=[...]: give modules of this {type(model).__name__}, in the order in which they run.")
    if len(set(blocks)) < len(blocks):
        raise UserError("blocks=[...]: names a module twice; a module that runs twice in a pass cannot be changed.")
    kind = f"{type(model).__module__.partition('.')[0]}.{type(model).__name__}"
    if seam is None:
        return tower_of(model, blocks, kind, prefix=0, prefix_said=False)
    if not callable(seam):
        raise UserError(f"seam={seam!r}: give a function of (module, attend, *args), docs/models_timm.md shows one.")
    return Tower(kind, model, blocks, (_WHOLE,) * len(blocks), prefix=0, seam=seam, prefix_said=False)
