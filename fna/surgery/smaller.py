"""The control of every reducer: the whole model on a smaller image, its own position resampling included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fna.errors import UserError
from fna.ops.contract import whole
from fna.surgery.blocks import Tower
from fna.surgery.extras import add
from fna.surgery.resolution import patch_size, set_image_size
from fna.surgery.swap import Swap
from fna.values import within

SIZED = ("pos_embed", "positional_embedding", "img_size", "grid_size", "num_patches", "image_size")
_ENTRIES = {"timm": "patch_embed", "open_clip": "conv1", "transformers": "embeddings"}


@dataclass(frozen=True)
class Resize:
    """What ``conf/reduce/resize.yaml`` instantiates: images at ``scale`` of their sides, rounded to whole patches.

    The image as the model's transform made it is resampled (bilinear, antialiased), inside the clock. Patch tokens after the last
    block are interpolated back onto the grid of the larger image, so that dense tasks compare place by place.
    """

    scale: Annotated[float, within(0, 1)] = 0.75
    version: ClassVar[int] = 1

    def on(self, swap: Swap) -> Swap:
        """``swap`` with smaller images until it is restored. Raises `UserError` where no whole patch would be left."""
        add(swap, partial(_install, self))
        return swap

    def size(self, image: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) in pixels of what is made of an ``image`` of so many."""
        rows, columns = (max(1, round(side * self.scale / step)) * step for side, step in zip(image, patch, strict=True))
        return rows, columns


def _install(resize: Resize, swap: Swap) -> None:
    tower = swap.tower
    if tower.patches is None or not hasattr(tower.module, _ENTRIES.get(tower.family, "")):
        raise UserError(f"reduce=Resize: a {tower.kind} sees no image, or not in a place that fna knows.")
    smaller = Smaller(swap, resize)
    swap._hooks.append(smaller)  # type: ignore[arg-type]  # undone like a hook
    entry = getattr(tower.module, _ENTRIES[tower.family])
    swap._hooks.append(entry.register_forward_pre_hook(smaller.shrink, with_kwargs=True))
    swap._hooks.append(tower.blocks[-1].register_forward_hook(partial(_enlarge, swap), prepend=True))


class Smaller:
    """A tower made for smaller images, and how it was before. Its size follows the image; positions are of the first table."""

    def __init__(self, swap: Swap, resize: Resize) -> None:
        self.swap, self.resize = swap, resize
        self.patch = patch_size(swap.tower)
        self.before = _state(swap.tower)
        self.options: dict[str, Any] = {}
        self.size: tuple[int, int] | None = None
        self.after = self.before

    def shrink(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Pre-hook of what cuts images into patches."""
        images: Tensor = args[0] if args else kwargs["pixel_values"]
        rows, columns = (whole(side) for side in images.shape[-2:])
        self.fit(self.resize.size((rows, columns), self.patch))
        self.swap._run.shrunk((rows // self.patch[0], columns // self.patch[1]))
        with self.swap._run.clock("resizing"):
            small = F.interpolate(images.float(), self.size, mode="bilinear", antialias=True).to(images.dtype)
        others = {name: value for name, value in kwargs.items() if args or name != "pixel_values"}
        return (small, *args[1:]), others | self.options

    def fit(self, size: tuple[int, int]) -> None:
        """Make the tower take images of ``size``, where it does not yet, or somebody has changed its size since."""
        if size == self.size and _same(_state(self.swap.tower), self.after):
            return
        self._put_back()
        self.options = _set(self.swap.tower.module, size)
        self.size, self.after = size, _state(self.swap.tower)

    def remove(self) -> None:
        """Give the tower its own size back, the very parameters included."""
        if self.size is not None:
            self._put_back()
        self.size = None

    def _put_back(self) -> None:
        tower, rope = self.swap.tower, getattr(self.swap.tower.module, "rope", None)
        for part, name, value in self.before:
            setattr(part, name, value)
        if tower.family == "timm" and rope is not None:
            _set(tower.module, tower.module.patch_embed.img_size)  # type: ignore[union-attr, arg-type]  # rotary tables
            for part, name, value in self.before:
                setattr(part, name, value)


def _set(module: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    """`set_image_size` whose new tables serve a later training step too, whatever mode the pass runs in."""
    made_so = any(tensor.is_inference() for tensor in (*module.parameters(), *module.buffers()))
    with torch.inference_mode(made_so), torch.no_grad():
        return set_image_size(module, size)


State = list[tuple[nn.Module, str, Any]]


def _state(tower: Tower) -> State:
    """What of a tower depends on the size of its images."""
    parts = [part for part in (tower.module, getattr(tower.module, "patch_embed", None)) if part is not None]
    return [(part, name, getattr(part, name)) for part in parts for name in SIZED if hasattr(part, name)]


def _same(now: State, then: State) -> bool:
    return all(a is b if isinstance(a, Tensor) else a == b for (*_, a), (*_, b) in zip(now, then, strict=True))


def _enlarge(swap: Swap, block: nn.Module, args: Any, output: Any) -> Any:
    """Hook of the last block, before the pass is closed."""
    if swap.frame.aside:
        return None
    first = output[0] if isinstance(output, tuple) else output
    x = first if swap.tower.batch_first else first.transpose(0, 1)
    x = swap.spread(x)
    x = x if swap.tower.batch_first else x.transpose(0, 1)
    return (x, *output[1:]) if isinstance(output, tuple) else x
