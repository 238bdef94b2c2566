"""The study of ``task=tokens`` in a run: ``tokens.json`` and images with their tokens marked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fna.masking.sinks import ARTIFACT, MASSIVE, categories
from fna.masking.strategy import Masking
from fna.progress import bar
from fna.tasks.exhibits import Show, denormalised
from fna.tasks.images import first_images, readable
from fna.tasks.study import passes, record, study

FILE = "tokens.json"


def draw(show: Show, seek: Masking, count: int, ranks: tuple[int, ...]) -> list[dict[str, Any]]:
    """Study the untouched model on the first ``count`` images; one entry an image."""
    images = first_images(show.model, show.dataset, min(count, len(show.dataset.examples)))
    with bar("study of the tokens, in passes", passes(ranks)) as advance:
        found = study(show.model, images, seek, ranks, advance)
    show.table(FILE, found)
    return _marked(show, images[: show.count], seek)


def _marked(show: Show, images: Tensor, seek: Masking) -> list[dict[str, Any]]:
    model = show.model
    if not len(images):
        return []
    seen = record(model, images, seek=seek)
    kind = categories(seen["massive"], seen["sinks"], model.tokens)
    shown = []
    for row, example in enumerate(readable(show.dataset, len(images))):
        name = show.picture(f"tokens{row}", denormalised(images[row].float().cpu()))
        marks = {
            key: (kind[row] == number).nonzero()[:, 0].tolist() for key, number in (("massive", MASSIVE), ("artifact", ARTIFACT))
        }
        shown.append({"image": name, "key": example.key, "grid": model.tokens.grid, "prefix": model.tokens.prefix, **marks})
    return shown
