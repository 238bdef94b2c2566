"""Images of examples in batches, in a fixed order, with a rule for those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from fna.data.base import Given
from fna.data.files import UNREADABLE
from fna.data.pictures import open_image
from fna.errors import UserError

Transform = Callable[[Image.Image], Tensor]


class Pictured(Protocol):
    """Any example: it has an image."""

    @property
    def key(self) -> str: ...

    @property
    def image(self) -> Path: ...


@dataclass(frozen=True)
class Batch:
    """``images`` float ``[b, 3, h, w]`` of the examples at ``indices`` (length b, b may be 0); ``tried``: how many were due."""

    indices: list[int]
    images: Tensor
    tried: int


def transformed(example: Any, transform: Transform) -> Tensor:
    """What a model takes of an example: ``[3, h, w]``. Raises whatever Pillow raises for a file that is missing or damaged."""
    return example.pixels if isinstance(example, Given) else transform(open_image(example.image))


def picture(example: Any) -> Image.Image:
    """An example's image as it is; of one that came as a tensor, stretched to its own range."""
    if not isinstance(example, Given):
        return open_image(example.image)
    low, high = example.pixels.aminmax()
    pixels = ((example.pixels - low) / (high - low).clamp_min(1e-6) * 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def batches(
    examples: Sequence[Pictured],
    transform: Transform,
    *,
    batch_size: int,
    skipped: list[str],
    workers: int = 0,
    strict: bool = False,
    before: int = 0,
) -> Iterator[Batch]:
    """Transformed images in the order of ``examples``; ``workers`` processes read ahead (0: none).

    ``before``: how many examples came before these, which their indices count on from.

    An image that cannot be read is named in ``skipped`` (key and reason) and left out, the same way in every pass; with ``strict``
    it raises `UserError`. So does a set of which nothing could be read.
    """
    loader = DataLoader(_Images(examples, transform), batch_size, num_workers=workers, collate_fn=list)
    read = 0
    for items in loader:
        bad = [(index, problem) for index, _, problem in items if problem]
        for index, problem in bad:
            if strict:
                raise UserError(f"{examples[index].image}: {problem}; mend or remove it, or run with strict=false to skip it.")
            skipped.append(f"{examples[index].key}: {problem}")
        good = [(index, image) for index, image, problem in items if not problem]
        read += len(good)
        stacked = torch.stack([image for _, image in good]) if good else torch.empty(0)
        yield Batch([before + index for index, _ in good], stacked, len(items))
    if not read and not before:
        raise UserError(f"none of the {len(examples)} images could be read (first: {skipped[0] if skipped else 'there is none'}).")


class _Images(torch.utils.data.Dataset[tuple[int, Tensor, str]]):
    """(index, image, "") or (index, nothing, what is wrong with it): an exception must not stop a worker."""

    def __init__(self, examples: Sequence[Pictured], transform: Transform) -> None:
        self.examples, self.transform = examples, transform

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[int, Tensor, str]:
        try:
            image = self.examples[index]
            return index, transformed(image, self.transform), ""
        except UNREADABLE as error:
            reason = str(error).replace(str(self.examples[index].image), self.examples[index].image.name)
            return index, torch.empty(0), f"unreadable image ({reason})"


class Kept:
    """Batches of transformed images, kept from the first pass over them for the passes that follow, as far as ``room`` bytes go.

    What finds no room is read again in every pass.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._seen: dict[Any, _Seen] = {}

    def batches(
        self,
        examples: Sequence[Pictured],
        transform: Transform,
        *,
        batch_size: int,
        skipped: list[str],
        workers: int = 0,
        strict: bool = False,
    ) -> Iterator[Batch]:
        """As `batches`, the same batches in every pass."""
        seen = self._seen.setdefault((id(examples), transform, batch_size), _Seen(examples))
        for batch, told in seen.batches:
            skipped += told
            yield batch
        start = sum(batch.tried for batch, _ in seen.batches)
        if start == len(examples) > 0:
            return
        lines: list[str] = []
        rest = batches(
            examples[start:], transform, batch_size=batch_size, skipped=lines, workers=workers, strict=strict, before=start
        )
        for batch in rest:
            skipped += lines
            size = batch.images.nbytes
            if size <= self.room and not seen.full:
                seen.batches.append((batch, [*lines]))
                self.room -= size
            else:
                seen.full = True
            lines.clear()
            yield batch


@dataclass
class _Seen:
    """What is kept of one set of examples, whose list is held so that its id stays its own."""

    examples: Sequence[Pictured]
    batches: list[tuple[Batch, list[str]]] = field(default_factory=list)
    full: bool = False
