"""Dense scores of whole images: how an image is resized, cut into windows, scored by a model, and put together again.

``C`` classes, ``H x W`` the image's own size, ``h x w`` the size it is resized to, ``rows x columns`` the model's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fna.data.files import UNREADABLE
from fna.data.loading import open_image
from fna.errors import UserError, is_memory
from fna.models.base import Model
from fna.surgery.blocks import find_tower
from fna.surgery.resolution import set_image_size
from fna.surgery.smaller import SIZED
from fna.values import Pixels, Says, between, of_length

Size = tuple[int, int]
FINEST = 0.05  # of a window: 400 passes over each pixel, where less than a patch's width tells the model nothing new
MOST = 20  # scales
Scales = Annotated[
    Sequence[Annotated[float, between(0.1, 10)]],
    of_length(*range(1, MOST + 1)),
    Says(f"1 to {MOST} sizes [...], each from 0.1 to 10"),
]
Score = Callable[[Tensor], Tensor]  # images [b, 3, h, w] as the model wants them -> scores [b, C, rows, columns]


@dataclass(frozen=True)
class Inference:
    """How an image reaches the model.

    ``mode`` "whole": one forward at the model's own size, or, with ``short_side``, at that side with the aspect kept, rounded to
    the patch. "slide": windows of the model's size over the image resized to ``short_side`` (default: the window's short side),
    ``stride`` a share of the window; scores are averaged where windows overlap. Several ``scales`` and ``flip`` average
    probabilities.
    """

    mode: Literal["whole", "slide"] = "whole"
    short_side: Pixels | None = None
    stride: Annotated[float, between(FINEST, 1)] = 2 / 3
    scales: Scales = (1.0,)
    flip: bool = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "slide"):
            raise ValueError(f"task.inference.mode={self.mode}: choose whole or slide.")
        if not FINEST <= self.stride <= 1:
            raise ValueError(f"task.inference.stride={self.stride}: give a share of the window from {FINEST} to 1.")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"task.inference.scales={list(self.scales)}: give at least one number above 0.")

    @torch.inference_mode()
    def scores(self, model: Model, score: Score, images: Tensor) -> Iterator[Tensor]:
        """Per image ``[C, H, W]`` float32: scores for a single view, mean probabilities for several.

        ``images`` uint8 ``[b, 3, H, W]``. Scores go up to H x W bilinearly, before any argmax.
        """
        height, width = images.shape[-2:]
        views = []
        for scale in self.scales:
            size = self.input_size(model, (height, width), scale)
            resized = normalised(model, resize(images, size)).to(model.device, model.dtype)
            for turned in (False, True) if self.flip else (False,):
                view = self._view(model, score, resized.flip(-1) if turned else resized)
                views.append(view.flip(-1) if turned else view)
        for one in zip(*views, strict=True):
            with _large(len(one[0]), (height, width)):
                maps = [F.interpolate(view[None].float(), (height, width), mode="bilinear")[0] for view in one]
                merged = maps[0] if len(maps) == 1 else torch.stack([scores.softmax(0) for scores in maps]).mean(0)
            yield merged

    def input_size(self, model: Model, size: Size, scale: float = 1.0) -> Size:
        """(h, w) that an image of ``size`` is resized to."""
        patch, window = patch_size(model), model.image_size
        if self.mode == "slide":
            factor = scale * (self.short_side or min(window)) / min(size)
            rounded = (round(size[0] * factor), round(size[1] * factor))
            if rounded[0] < window[0] or rounded[1] < window[1]:
                raise UserError(f"a window of {window} does not fit an image of {rounded}: raise task.inference.short_side.")
            return rounded
        height, width = window if self.short_side is None else (side * self.short_side / min(size) for side in size)
        return _multiple(height * scale, patch[0]), _multiple(width * scale, patch[1])

    def _view(self, model: Model, score: Score, images: Tensor) -> Tensor:
        if self.mode == "whole":
            with sized(model, (images.shape[-2], images.shape[-1])):
                return score(images)
        height, width = model.image_size
        tops, lefts = (starts(n, side, self.stride) for n, side in zip(images.shape[-2:], (height, width), strict=True))
        boxes = [(..., slice(top, top + height), slice(left, left + width)) for top in tops for left in lefts]
        windows = score(torch.cat([images[box] for box in boxes])).float().chunk(len(boxes))
        total = windows[0].new_zeros(*windows[0].shape[:2], *images.shape[-2:])
        seen = windows[0].new_zeros(images.shape[-2:])
        for box, scores in zip(boxes, windows, strict=True):
            total[box] += F.interpolate(scores, (height, width), mode="bilinear")
            seen[box] += 1
        return total / seen


@contextmanager
def _large(classes: int, size: Size) -> Iterator[None]:
    """Scores at an image's own size that no memory holds are told as such: no smaller batch and no smaller ``image_size`` helps."""
    try:
        yield
    except RuntimeError as error:
        if not is_memory(error):
            raise
        height, width = size
        wanted = (
            f"scores of {classes} classes at an image's own {width} x {height} pixels ({4e-9 * classes * height * width:.1f} GB)"
        )
        raise UserError(f"out of memory for {wanted}; give smaller pictures with their label maps, or fewer classes.") from error


def starts(length: int, window: int, stride: float) -> list[int]:
    """Where windows begin along one side; the last is shifted back inside."""
    step = max(1, int(window * stride))
    count = max(length - window + step - 1, 0) // step + 1
    return [max(min(number * step + window, length) - window, 0) for number in range(count)]


def resize(images: Tensor, size: Size) -> Tensor:
    """uint8 ``[b, 3, H, W]`` to float ``[b, 3, h, w]`` in 0..1, bilinear and antialiased."""
    pixels = images.float() / 255
    return pixels if images.shape[-2:] == size else F.interpolate(pixels, size, mode="bilinear", antialias=True)


def normalised(model: Model, pixels: Tensor) -> Tensor:
    """``pixels`` in 0..1 as the model wants them. Its transform is affine in each channel, so black and white tell all of it."""
    side = (64, 64)
    black, white = (model.transform(Image.new("RGB", side, colour))[:, :1, :1] for colour in ("black", "white"))
    return black + pixels * (white - black)


def patch_size(model: Model) -> Size:
    """Pixels of a patch, (rows, columns). Raises `UserError` for a model without a grid."""
    if model.tokens.grid is None:
        raise UserError(f"{model.name} has no grid of patches: task=segmentation needs one.")
    rows, columns = model.tokens.grid
    return model.image_size[0] // rows, model.image_size[1] // columns


def as_map(model: Model, tokens: Tensor, images: Tensor) -> Tensor:
    """The patches among all tokens ``[b, N, D]`` of ``images`` as a map ``[b, D, rows, columns]``; appended tokens are left out."""
    patch = patch_size(model)
    rows, columns = images.shape[-2] // patch[0], images.shape[-1] // patch[1]
    patches = tokens.narrow(1, model.tokens.prefix, rows * columns)
    return patches.transpose(1, 2).unflatten(2, (rows, columns))


@contextmanager
def sized(model: Model, size: Size) -> Iterator[None]:
    """The model's tower at another image size, and back to its own afterwards, bit for bit."""
    if size == model.image_size:
        yield
        return
    tower = find_tower(model.tower).module
    parts = [part for part in (tower, getattr(tower, "patch_embed", None)) if part is not None]
    before = [(part, name, getattr(part, name)) for part in parts for name in SIZED if hasattr(part, name)]
    try:
        set_image_size(model.tower, size)
        yield
    finally:
        for part, name, value in before:
            setattr(part, name, value)
        set_image_size(model.tower, model.image_size)  # positions are back already; this brings rotary tables along


def _multiple(side: float, patch: int) -> int:
    return max(1, round(side / patch)) * patch


def raw_pixels(file: Path) -> Tensor:
    """uint8 ``[3, H, W]`` of an image file. Raises `UserError` where it cannot be read."""
    try:
        return pil_to_pixels(open_image(file))
    except UNREADABLE as error:
        raise UserError(f"{file}: cannot be read as an image ({error}).") from error


def pil_to_pixels(image: Image.Image) -> Tensor:
    """uint8 ``[3, H, W]``."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
