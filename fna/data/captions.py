"""What the readers of captioned images share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fna.data import files
from fna.data.absent import Missing, left_out, remedy
from fna.data.base import Captioned, Dataset, is_text
from fna.errors import UserError
from fna.values import counted


def check_count(captions_per_image: Any) -> None:
    """Raise `ValueError` unless it is "all" or a count of at least 1."""
    if captions_per_image != "all" and (not isinstance(captions_per_image, int) or captions_per_image < 1):
        raise ValueError(f"captions_per_image={captions_per_image}: give all or a count, such as 5.")


def check_annotations(root: Path, annotations: str) -> None:
    """Raise `UserError` unless the file is there; say which files of its kind there are."""
    if (root / annotations).is_file():
        return
    kind = Path(annotations).suffix or ".json"
    there = [path.relative_to(root).as_posix() for depth in ("", "*/") for path in sorted(root.glob(f"{depth}*{kind}"))]
    shown = f"; there is {', '.join(there[:3])}{', ...' * (len(there) > 3)}" if there else ""
    raise UserError(f"{root / annotations}: no such file; give its place in the root with dataset.annotations=PATH{shown}.")


def dataset(
    name: str,
    split: str,
    domain: str,
    source: object,
    found: Sequence[Captioned],
    limit: int | None,
    per_image: int | str,
    missing: Missing,
) -> Dataset[Captioned]:
    """The first ``limit`` images that have captions, each with all or its first ``per_image`` captions.

    Images without a caption are left out and noted, so are captions that say nothing and with ``missing`` "skip" images that are
    not there. Raises `UserError` where none is left, an image is listed twice or its file is not there, or a caption is no text.
    """
    _check(source, found)
    images = {each.key: each.image for each in found}
    out, gone = left_out(images, missing)
    found = [each for each in found if each.key not in out]
    told = [Captioned(each.key, each.image, tuple(filter(None, each.captions))) for each in found]
    captioned = [example for example in told if example.captions]
    if not captioned:
        raise UserError(f"{source}: holds no captioned image of split {split}; choose another file or split.")
    last = None if per_image == "all" else int(per_image)
    examples = [Captioned(each.key, each.image, each.captions[:last]) for each in files.first(captioned, limit)]
    bare = len(found) - len(captioned)
    empty = sum(len(each.captions) for each in found) - sum(len(each.captions) for each in told)
    notes = [f"{counted(bare, 'image')} without captions left out"] * bool(bare)
    notes += [f"{counted(empty, 'empty caption')} left out"] * bool(empty)
    return Dataset(name, split, domain, files.digest(split, examples, mend=remedy(images)), examples, notes=[*notes, *gone])


def _check(source: object, found: Sequence[Captioned]) -> None:
    places: dict[str, str] = {}
    for each in found:
        unsaid = next((caption for caption in each.captions if not is_text(caption)), None)
        if unsaid is not None:
            raise UserError(f"{source}: {each.key!a} has a caption that is no text in UTF-8 ({ascii(unsaid)[:60]}).")
        place = os.path.normpath(each.image)
        if place in places:
            also = f", as {places[place]} too" * (places[place] != each.key)
            raise UserError(f"{source}: {each.key} is listed twice{also}; list each image once.")
        places[place] = each.key
