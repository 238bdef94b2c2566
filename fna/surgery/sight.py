"""What a vision-language model's tower saw of the images of a prompt, for policies that choose among image tokens.

Hooks keep what the tower's blocks and the projector were given; scores are made of it when a policy asks, from the rows that are
needed, so that the tower keeps its fused attention.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fna.errors import UserError
from fna.surgery.blocks import Tower, find_tower

RESAMPLING = ("CLIPVisionModel", "CLIPVisionTransformer", "SiglipVisionModel", "SiglipVisionTransformer")
Grid = tuple[int, int]


class Sight:
    """The last images that the model looked at. Axes as in `fna.kv.image_tokens`; ``I``: images, or tiles of them.

    ``smaller``: what makes a coarser grid of the tower's, for a policy that shows it smaller images.
    """

    def __init__(self, model: Any, smaller: Callable[[Grid], Grid] | None = None) -> None:
        self.model = getattr(model, "model", model)
        self.smaller = smaller
        self.projector: nn.Module | None = getattr(self.model, "multi_modal_projector", None)
        self.tower: Tower | None = None if self.projector is None else find_tower(model)
        self.given: dict[int, Tensor] = {}  # block -> what its attention was given, [I, prefix + patches, W]
        self.projected: Tensor | None = None  # what the projector was given, [I, patches, F]
        self.pack: Callable[[Tensor], Tensor] | None = None  # tiles put together, where the model does that
        self.known: dict[Any, Tensor] = {}

    def install(self, undo: ExitStack) -> None:
        """Hooks on the tower and the projector until ``undo`` ends. Raises `UserError` where images cannot be made smaller."""
        if self.smaller is not None:
            self._check_smaller()
        if self.tower is None or self.projector is None:
            return
        blocks = len(self.tower.blocks)
        for number in range(max(0, blocks - 2), blocks):
            attention = self.tower.specs[number].attention_of(self.tower.blocks[number])
            hook = attention.register_forward_pre_hook(partial(self._see_block, number - blocks), with_kwargs=True)
            undo.callback(hook.remove)
        if self.smaller is not None:
            undo.callback(self.tower.module.register_forward_pre_hook(self._shrink, with_kwargs=True).remove)
        undo.callback(self.projector.register_forward_pre_hook(self._see_features).remove)
        if hasattr(self.model, "pack_image_features"):
            stock = self.model.pack_image_features
            vars(self.model)["pack_image_features"] = partial(self._pack, stock)
            undo.callback(vars(self.model).pop, "pack_image_features")

    @property
    def grid(self) -> Grid | None:
        """Rows and columns of an image's patches; None where images are cut into tiles, or nobody knows."""
        return None if self.tower is None or hasattr(self.model, "pack_image_features") else self.tower.grid

    def features(self) -> Tensor:
        """What the projector was given, ``[T, F]``; of a model that has none what the decoder is given."""
        return self._once("features", lambda: self._flat(self._projected()))

    def attention(self, block: int, split: bool = True) -> Tensor:
        """Softmax weights of CLS on each patch, ``[T, H]``, float32; one head as wide as all where not ``split``."""

        def weights() -> Tensor:
            q, k = self._queries_keys(block, split)
            tower = self._seen_by()
            logits = (q[:, :1] * k).sum(-1).float() * (q.shape[-1] ** -0.5)  # [I, N, H]
            return self._flat(logits.softmax(1)[:, tower.prefix :])

        return self._once(("attention", block, split), weights)

    def keys(self, block: int) -> Tensor:
        """Keys of the patches, ``[T, H, d]``."""

        def keys() -> Tensor:
            k = self._queries_keys(block, True)[1][:, self._seen_by().prefix :]
            return self._flat(k.flatten(2)).unflatten(1, k.shape[2:])

        return self._once(("keys", block), keys)

    def project(self, features: Tensor) -> Tensor:
        """``[n, F]`` through the projector, ``[n, D]``."""
        assert self.projector is not None
        kind = next(self.projector.parameters()).dtype
        return _stock(self.projector)(features.to(kind)[None])[0]

    def _once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def _projected(self) -> Tensor:
        if self.projected is None:
            raise UserError(
                f"kv: {type(self.model).__name__} has no projector behind a tower that fna knows, so that nothing is known of its "
                "image features; kv=random, kv=pool, kv=divprune and kv=cdpruner need none."
            )
        return self.projected

    def _seen_by(self) -> Tower:
        if self.tower is None or not self.tower.prefix:
            kind = type(self.model).__name__ if self.tower is None else self.tower.kind
            raise UserError(
                f"kv: {kind} has no CLS token whose attention could score image tokens; kv=random, kv=pool, kv=divprune and "
                "kv=cdpruner need none."
            )
        return self.tower

    def _queries_keys(self, block: int, split: bool) -> tuple[Tensor, Tensor]:
        """The CLS token's query ``[I, 1, H, d]`` and all keys ``[I, N, H, d]`` of a block."""
        tower = self._seen_by()
        attention: Any = tower.specs[block].attention_of(tower.blocks[block])
        x = self.given[block]
        heads = attention.num_heads if split else 1
        q, k = attention.q_proj(x[:, :1]), attention.k_proj(x)
        return q.unflatten(-1, (heads, -1)), k.unflatten(-1, (heads, -1))

    def _flat(self, x: Tensor) -> Tensor:
        """``x`` ``[I, patches, c]`` in the order of the image tokens ``[T, c]``; what is no patch (newlines) is 0."""
        return x.flatten(0, 1) if self.pack is None else self.pack(x)

    def _see_block(self, number: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.given[number] = args[0] if args else kwargs["hidden_states"]
        self.known.clear()

    def _see_features(self, module: nn.Module, args: Any) -> Any:
        x, *more = args
        self.known.clear()
        self.pack = None
        if self.smaller is not None:
            assert self.tower is not None
            assert self.tower.grid is not None
            x = spread(x, self.smaller(self.tower.grid), self.tower.grid)
        self.projected = x
        return (x, *more)

    def _pack(self, stock: Callable[..., Any], image_features: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's own way to put tiles together, remembered for whatever else is known of each patch."""
        counts = [len(part) for part in image_features]

        def pack(x: Tensor) -> Tensor:
            newline = x.new_zeros(x.shape[-1])
            return torch.cat(list(stock(x.split(counts), *args, **{**kwargs, "image_newline": newline})[0]))

        self.pack = pack
        return stock(image_features, *args, **kwargs)

    def _check_smaller(self) -> None:
        tower = self.tower
        if tower is None or self.grid is None or tower.kind.partition(".")[2] not in RESAMPLING:
            name = type(self.model).__name__
            raise UserError(
                f"kv=resize: {name} has no tower of one grid whose positions transformers resamples; take kv=pool instead."
            )

    def _shrink(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Pre-hook of the tower: smaller pixels."""
        assert self.smaller is not None
        assert self.tower is not None
        assert self.tower.grid is not None
        images: Tensor = args[0] if args else kwargs["pixel_values"]
        cells = self.smaller(self.tower.grid)
        if cells == self.tower.grid:
            return None
        size = [few * side // many for few, side, many in zip(cells, images.shape[-2:], self.tower.grid, strict=True)]
        small = F.interpolate(images.float(), size, mode="bilinear", antialias=True).to(images.dtype)
        others = {name: value for name, value in kwargs.items() if args or name != "pixel_values"}
        return (small, *args[1:]), {**others, "interpolate_pos_encoding": True}


def spread(x: Tensor, cells: Grid, grid: Grid) -> Tensor:
    """``x`` ``[I, r * c, F]`` of coarse ``cells`` over a ``grid`` ``[I, rows * columns, F]``, each patch as its cell has it."""
    rows, columns = ((2 * torch.arange(many) + 1) * few // (2 * many) for few, many in zip(cells, grid, strict=True))
    return x[:, (rows[:, None] * cells[1] + columns).flatten().to(x.device)]


def _stock(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The module without its hooks: they tell of the tower, not of what a policy asks for."""
    return module.forward
