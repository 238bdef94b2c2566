"""What the blocks that no variant changes make of each batch, computed once for all variants of a run.

Variants of the last half of a model share its first half. While a trunk is in force, the input of its first changed block is kept
for each batch of images, found again by the images' bytes, and the blocks before it are skipped. Only for passes of which nothing
but the model's output is looked at; where somebody has hooks on these blocks they run as ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fna.surgery.blocks import find_tower
from fna.surgery.forward import Forward


class Trunk:
    """The first ``depth`` blocks of the tower of ``model``; keeps as many batches as go into ``room`` bytes, the first ones."""

    def __init__(self, model: nn.Module, depth: int, room: int) -> None:
        self.tower = find_tower(model) if depth else None
        self.depth = depth
        self.room = room
        self._kept: dict[bytes, Tensor] = {}
        self._key: bytes | None = None
        self._ready: Tensor | None = None
        self.tuples = False  # whether these blocks return tuples

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Skip what is known, keep what is not. Nothing happens where the model cannot be cut: no block, no sight of the images."""
        if self.tower is None or self.tower.patches is None:
            yield
            return
        blocks = self.tower.blocks[: self.depth]
        shadowed = [block for block in blocks if "forward" in vars(block)]
        hooks = [self.tower.patches.register_forward_pre_hook(self._see), blocks[-1].register_forward_hook(self._keep)]
        try:
            if not shadowed:
                for block in blocks:
                    vars(block)["forward"] = _Skipped(self, block).forward
            yield
        finally:
            for hook in hooks:
                hook.remove()
            if not shadowed:
                for block in blocks:
                    vars(block).pop("forward", None)
            self._key = self._ready = None

    @property
    def skipping(self) -> Tensor | None:
        """What comes out of the trunk for the images at hand, where it is known."""
        return self._ready

    def _see(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Pre-hook of the patch projection: which images these are."""
        images: Tensor = args[0]
        self._key = _digest(images)
        self._ready = None if self._watched() else self._kept.get(self._key)

    def _watched(self) -> bool:
        """Whether somebody else looks at what goes through these blocks; a swap opens its pass at the first and is welcome."""
        assert self.tower is not None
        blocks = self.tower.blocks[: self.depth]
        after = [hook for block in blocks for hook in block._forward_hooks.values() if hook != self._keep]
        before = [hook for block in blocks for hook in block._forward_pre_hooks.values()]
        return bool(after) or any(getattr(hook, "__func__", None) is not Forward.open for hook in before)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hook of the trunk's last block."""
        self.tuples = isinstance(output, tuple)
        hidden = output[0] if self.tuples else output
        if self._key is not None and self._ready is None and hidden.nbytes <= self.room:
            self._kept[self._key] = hidden.clone()
            self.room -= hidden.nbytes
        self._key = None


class _Skipped:
    """Stands in for the forward of a block of the trunk."""

    def __init__(self, trunk: Trunk, block: nn.Module) -> None:
        self.trunk, self.block = trunk, block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's own forward, or what comes out of the trunk."""
        known = self.trunk.skipping
        if known is None:
            return type(self.block).forward(self.block, *args, **kwargs)
        # A copy: what comes after may write into it.
        return (known.clone(),) if self.trunk.tuples else known.clone()


def _digest(images: Tensor) -> bytes:
    """blake2b of a batch's bytes, shape and dtype."""
    plain = images.detach().contiguous().cpu()
    seen = hashlib.blake2b(f"{tuple(plain.shape)} {plain.dtype}".encode(), digest_size=16)
    seen.update(plain.view(torch.uint8).numpy().data)
    return seen.digest()
