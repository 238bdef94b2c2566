"""Images of examples in batches, in a fixed order, with a rule for those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

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


def batches(
    examples: Sequence[Pictured],
    transform: Transform,
    *,
    batch_size: int,
    skipped: list[str],
    workers: int = 0,
    strict: bool = False,
) -> Iterator[Batch]:
    """Transformed images in the order of ``examples``; ``workers`` processes read ahead (0: none).

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
        yield Batch([index for index, _ in good], stacked, len(items))
    if not read:
        raise UserError(f"none of the {len(examples)} images could be read (first: {skipped[0] if skipped else 'there is none'}).")


class _Images(torch.utils.data.Dataset[tuple[int, Tensor, str]]):
    """(index, image, "") or (index, nothing, what is wrong with it): an exception must not stop a worker."""

    def __init__(self, examples: Sequence[Pictured], transform: Transform) -> None:
        self.examples, self.transform = examples, transform

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[int, Tensor, str]:
        try:
            image = open_image(self.examples[index].image)
        except UNREADABLE as error:
            reason = str(error).replace(str(self.examples[index].image), self.examples[index].image.name)
            return index, torch.empty(0), f"unreadable image ({reason})"
        return index, self.transform(image), ""
