"""Reducers that work in three blocks of a model, with what lies between them untouched."""

from __future__ import annotations

from fna.surgery.reduce import Place


def at_stage(place: Place) -> bool:
    """Whether this is block L/4, L/2 or 3L/4 of L: the 4th, 7th and 10th of 12, as EViT and ATC have them."""
    return place.layer in {place.depth * quarter // 4 for quarter in (1, 2, 3)}
