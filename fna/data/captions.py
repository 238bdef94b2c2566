"""What the readers of captioned images share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fna.data import files
from fna.data.base import Captioned, Dataset
from fna.errors import UserError


def check_count(captions_per_image: Any) -> None:
    """Raise `ValueError` unless it is "all" or a count of at least 1."""
    if captions_per_image != "all" and (not isinstance(captions_per_image, int) or captions_per_image < 1):
        raise ValueError(f"captions_per_image={captions_per_image}: give all or a count, such as 5.")


def dataset(
    name: str, split: str, domain: str, source: object, found: Sequence[Captioned], limit: int | None, per_image: int | str
) -> Dataset[Captioned]:
    """The first ``limit`` images that have captions, each with all or its first ``per_image`` captions.

    Images without a caption are left out and noted. Raises `UserError` where none is left or an image file is not there.
    """
    captioned = [example for example in found if example.captions]
    if not captioned:
        raise UserError(f"{source}: holds no captioned image of split {split}; choose another file or split.")
    last = None if per_image == "all" else int(per_image)
    examples = [Captioned(each.key, each.image, each.captions[:last]) for each in files.first(captioned, limit)]
    bare = len(found) - len(captioned)
    notes = [f"{bare} images without captions left out"] if bare else []
    return Dataset(name, split, domain, files.digest(split, examples), examples, notes=notes)
