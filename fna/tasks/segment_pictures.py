"""Pictures of label maps for the page: image, truth, full attention, the variant, and where the two differ."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fna.data.base import Segmented
from fna.data.label_values import IGNORE
from fna.data.loading import open_image
from fna.data.segmentation import SegmentedDataset
from fna.models.base import Model
from fna.tasks.base import Array, Run
from fna.tasks.exhibits import Pass, Show

# `Segmentation.score_maps`
ScoreMaps = Callable[[Model, SegmentedDataset, Run, list[str]], Iterator[tuple[int, Tensor]]]

WIDTH = 320
TINT = 0.65  # of the class colour over the image
GOLDEN = 0.618034


def draw(show: Show, score_maps: ScoreMaps) -> list[dict[str, Any]]:
    """The images on which full and the first variant agree least.

    Each entry holds the paths of five pictures, the share of pixels decided alike in percent and the classes in them with their
    colours.
    """
    data = show.dataset
    if show.count == 0 or len(show.passes) < 2 or not isinstance(data, SegmentedDataset):
        return []
    full, variant = (one.outcome for one in show.passes[:2])
    alike = (full.decisions == variant.decisions).mean(axis=1)
    chosen = {full.keys[row] for row in np.argsort(alike, kind="stable")[: show.count]}
    examples = [example for example in data.examples if example.key in chosen]
    few = replace(data, examples=examples)
    maps = [_maps(score_maps, show.model, few, one) for one in show.passes[:2]]
    entries = [
        _entry(show, number, data, example, before, after)
        for number, (example, before, after) in enumerate(zip(examples, *maps, strict=True))
    ]
    return sorted(entries, key=lambda entry: float(entry["alike"]))


def colour(label: int) -> tuple[int, int, int]:
    """A colour for a class: hues far apart, lighter and darker in turn."""
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1, (0.85, 0.6, 0.9)[label % 3], (0.95, 0.75, 0.55)[label // 3 % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def _maps(score_maps: ScoreMaps, model: Model, data: SegmentedDataset, one: Pass) -> list[Array]:
    with one.on():
        return [scores.argmax(0).cpu().numpy() for _, scores in score_maps(model, data, one.run, [])]


def _entry(show: Show, number: int, data: SegmentedDataset, example: Segmented, full: Array, variant: Array) -> dict[str, Any]:
    photo = np.asarray(open_image(example.image), np.float64)
    truth = data.read_labels(example)
    pictures = {
        "image": photo,
        "truth": _tinted(photo, truth),
        "full": _tinted(photo, full),
        "variant": _tinted(photo, variant),
        "differs": np.where((full != variant)[..., None], (255.0, 40.0, 40.0), photo * 0.45),
    }
    entry: dict[str, Any] = {"key": example.key, "alike": round(100 * float((full == variant).mean()), 2)}
    for name, pixels in pictures.items():
        entry[name] = show.picture(f"segment{number}_{name}", _small(pixels))
    present = [int(label) for label in np.unique([*np.unique(truth), *np.unique(full), *np.unique(variant)]) if label != IGNORE]
    return entry | {"classes": [[data.classes[label], "#{:02x}{:02x}{:02x}".format(*colour(label))] for label in present]}


def _tinted(photo: Array, labels: Array) -> Array:
    """Class colours over the image; pixels that count nowhere stay as dark as they are on the map of differences."""
    table = np.array([colour(label) for label in range(IGNORE)] + [(0, 0, 0)], np.float64)
    return (1 - TINT) * photo + TINT * table[labels]


def _small(pixels: Array) -> Image.Image:
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    picture.thumbnail((WIDTH, WIDTH))
    return picture
