"""What a linear head is trained on: patch features of a training split and each patch's shares of classes, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fna.data.base import Segmented
from fna.data.label_values import IGNORE
from fna.data.segmentation import SegmentedDataset
from fna.errors import UserError
from fna.models.base import Model
from fna.progress import through
from fna.tasks.base import Array, Run
from fna.tasks.cache import cached_rows, digest_of
from fna.tasks.dense import Inference, Size, normalised, patch_size, raw_pixels, resize


@dataclass(frozen=True)
class Source:
    """A training split as a model sees it: each image once, at inference's size; one window of it where that is larger.

    ``count``: the first so many images, None for all. Files lie below ``cache``, named by the hash of what decides them.
    """

    model: Model
    data: SegmentedDataset
    count: int | None
    view: Inference
    run: Run
    cache: Path

    @property
    def examples(self) -> list[Segmented]:
        """The images trained on."""
        return list(self.data.examples[: self.count])

    def decides(self, blocks: int) -> dict[str, Any]:
        """All that the features depend on."""
        return {"variant": self.run.variant, "model": self.model.identity, "blocks": blocks, **self._decides_windows()}

    def features(self, extract: Callable[[Model, Tensor], Tensor], blocks: int) -> Array:
        """float16 ``[n, D, rows, columns]``, memory-mapped; ``extract(model, images)`` computes what is not there yet."""
        model = self.model

        def seen(pixels: Tensor) -> Array:
            with torch.inference_mode():
                return extract(model, normalised(model, pixels).to(model.device, model.dtype)).half().cpu().numpy()

        width = seen(torch.zeros(1, 3, *model.image_size)).shape[1]
        file = self.cache / "features" / f"{digest_of(self.decides(blocks))}.npy"
        return cached_rows(file, (len(self.examples), width, *self._grid), lambda done: self._pieces(done, self._pixels, seen))

    def shares(self) -> Array:
        """uint8 ``[n, C, rows, columns]``: how much of each patch is of each class, in 255ths; ignored pixels are in none."""
        shape = (len(self.examples), len(self.data.classes), *self._grid)
        file = self.cache / "shares" / f"{digest_of({**self._decides_windows(), 'grid': self._grid})}.npy"
        return cached_rows(file, shape, lambda done: self._pieces(done, self._shares, lambda parts: parts.numpy()), "uint8")

    @property
    def _grid(self) -> Size:
        patch = patch_size(self.model)
        return self.model.image_size[0] // patch[0], self.model.image_size[1] // patch[1]

    def _decides_windows(self) -> dict[str, Any]:
        view = {"mode": self.view.mode, "short_side": self.view.short_side, "size": self.model.image_size}
        return {"data": self.data.digest, "count": self.count, "seed": self.run.seed, **view}

    def _pieces(self, done: int, load: Callable[[Segmented], Tensor], finish: Callable[[Tensor], Array]) -> Iterator[Array]:
        step = self.run.batch_size
        starts = range(done, len(self.examples), step)
        for start in through(starts, "training images, in batches", len(starts)):
            yield finish(torch.stack([load(example) for example in self.examples[start : start + step]]))

    def _pixels(self, example: Segmented) -> Tensor:
        """``[3, h, w]`` in 0..1: the window of one image."""
        image = raw_pixels(example.image)
        size, top, left = self._window(example, (image.shape[-2], image.shape[-1]))
        height, width = self.model.image_size
        return resize(image[None], size)[0, :, top : top + height, left : left + width]

    def _shares(self, example: Segmented) -> Tensor:
        """uint8 ``[C, rows, columns]`` of the same window, from the labels at their own size."""
        labels = torch.from_numpy(self.data.read_labels(example))
        own = labels.shape[0], labels.shape[1]
        size, top, left = self._window(example, own)
        rows, columns = (
            slice(round(start * full / resized), round((start + side) * full / resized))
            for start, side, full, resized in zip((top, left), self.model.image_size, own, size, strict=True)
        )
        window, shares = labels[rows, columns], torch.zeros(len(self.data.classes), *self._grid, dtype=torch.uint8)
        for value in set(window.unique().tolist()) - {IGNORE}:  # one by one: all at once take a hundred times a large map's room
            shares[value] = (F.adaptive_avg_pool2d((window == value)[None].float(), self._grid)[0] * 255).round()
        return shares

    def _window(self, example: Segmented, own: Size) -> tuple[Size, int, int]:
        """(size resized to, top, left): where the image is larger than the model's input, a place drawn from seed and name."""
        size, window = self.view.input_size(self.model, own), self.model.image_size
        if size[0] < window[0] or size[1] < window[1]:
            raise UserError(f"{example.image}: {size} is smaller than the training window {window}; raise short_side.")
        place = Random(f"{self.run.seed} {example.key}")
        return size, place.randint(0, size[0] - window[0]), place.randint(0, size[1] - window[1])
