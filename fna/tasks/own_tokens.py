"""What tokens the blocks of a module of one's own hold, by a look at them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fna.errors import UserError
from fna.models.base import Model
from fna.ops.contract import Site, Tokens
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.swap import swap_tower


class _Count:
    """Exact attention that notes what tokens it was called with."""

    def __init__(self) -> None:
        self.tokens: Tokens | None = None
        self.count: int | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        self.tokens, self.count = site.tokens, q.shape[2]
        return Exact()(q, k, v, site)


def as_seen(model: Model, image: Tensor) -> Model:
    """The model with the tokens that one of the loader's images really has in its blocks, the last that sees the whole of it.

    What a module declares is of the size that it was made for: one that resamples its positions, or has no grid, has others.
    Where that block cannot be looked into, it stays as declared. Raises `UserError` where no block runs at all.
    """
    look, tower = _Count(), find_tower(model.tower)
    whole = [block for block in range(len(tower.blocks)) if block not in tower.unasked]
    if not whole or model.encode_image is None:
        return model
    try:
        with swap_tower(model.tower, {whole[-1]: look}), torch.inference_mode():
            model.encode_image(image.to(model.device, model.dtype, copy=True))
    except (UserError, RuntimeError):  # such as of a forward that stops before that block
        return model
    if look.tokens is None:
        raise UserError(
            f"{model.name}: none of its blocks runs in forward=, so nothing that is changed in them would show: hand over the "
            "module that forward= runs."
        )
    seen = Tokens(look.tokens.prefix, look.tokens.suffix, look.tokens.grid)
    return replace(model, tokens=seen, counted=look.count)
