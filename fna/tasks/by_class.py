"""Figures of every class, full beside the first variant: ``classes.csv`` in the run folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

import numpy as np

from fna.cells import defused
from fna.data.base import Dataset
from fna.metrics.iou import class_iou
from fna.tasks.base import Array, Outcome
from fna.tasks.exhibits import Show

HEADS = ("class", "samples", "full", "variant", "delta")


def write(show: Show) -> None:
    """Write accuracy (labelled images) or IoU (label maps) of every class in percent."""
    if len(show.passes) < 2:
        return
    full, variant = (one.outcome for one in show.passes[:2])
    rows = (_ious if "intersection" in full.counts else _accuracies)(show.dataset, full, variant)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADS)
    for name, count, before, after in rows:
        table.writerow([defused(name), count, *(f"{value:.2f}" for value in (before, after, after - before))])
    show.write("classes.csv", text.getvalue().encode("utf-8", "backslashreplace"))


def _ious(dataset: Dataset, full: Outcome, variant: Outcome) -> list[tuple[str, int, float, float]]:
    """(class, images that show it, IoU of full, of variant); NaN where it was neither labelled nor predicted."""

    def iou(counts: Mapping[str, Array]) -> Array:
        return 100 * class_iou({name: counts[name].sum(0) for name in ("intersection", "labelled", "predicted")})

    shown = (full.counts["labelled"] > 0).sum(0)
    return list(
        zip(dataset.classes, shown.astype(int).tolist(), iou(full.counts).tolist(), iou(variant.counts).tolist(), strict=True)
    )


def _accuracies(dataset: Dataset, full: Outcome, variant: Outcome) -> list[tuple[str, int, float, float]]:
    """(class, its samples, accuracy of full, of variant), in the order of names; two classes of one name are two rows."""
    own = {example.key: example.label for example in dataset.examples}
    label = np.array([own[key] for key in full.keys])
    place = {key: row for row, key in enumerate(variant.keys)}
    right, again = full.counts["top1"], variant.counts["top1"][[place[key] for key in full.keys]]
    return sorted(
        (full.truths[mine.argmax()], int(mine.sum()), 100 * float(right[mine].mean()), 100 * float(again[mine].mean()))
        for mine in (label == number for number in np.unique(label))
    )
