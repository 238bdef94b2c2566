"""Mean IoU, mean and pixel accuracy from int64 confusion matrices; ignored pixels are dropped, absent classes are NaN.

IoU is accumulated over the whole set, as mmsegmentation does it: a class that is neither labelled nor
predicted anywhere is left out of the mean, one that is predicted but never labelled counts as 0. torchmetrics takes an
absent class for 0 in the Jaccard index's per-class scores, so it is the oracle of a test here and not the implementation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray
IGNORE = 255
MUCH = 1 / 3  # of all pixels: a larger share that is ignored is worth a note
NAMED = 5  # classes named in a note


def confusion(prediction: Array, label: Array, classes: int, ignore: int = IGNORE) -> Array:
    """int64 ``[C, C]``: pixels by true class (rows) and predicted class (columns), pixels labelled ``ignore`` left out.

    ``prediction`` and ``label``: integers of one shape. Raises ``ValueError`` for another shape or a class outside 0..C-1.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {prediction.shape} and label {label.shape} differ in size")
    keep = label != ignore
    true, found = label[keep].astype(np.int64), prediction[keep].astype(np.int64)
    for name, values in (("label", true), ("prediction", found)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"{name} has values {values.min()} to {values.max()}, but there are {classes} classes")
    return np.bincount(true * classes + found, minlength=classes * classes).reshape(classes, classes)


def areas(matrix: Array) -> dict[str, Array]:
    """What one image adds to the sums, from its confusion matrix ``[..., C, C]``: three counts ``[..., C]``."""
    return {
        "intersection": np.diagonal(matrix, axis1=-2, axis2=-1),
        "labelled": matrix.sum(-1),
        "predicted": matrix.sum(-2),
    }


def label_notes(counts: Mapping[str, Array], classes: Sequence[str]) -> list[str]:
    """What the labels of the samples do not hold, from counts ``labelled`` ``[n, C]`` and ``ignored`` ``[n]`` of pixels.

    Classes that are labelled nowhere, of which a mean says nothing, and a share of ignored pixels above a third.
    """
    labelled, ignored = (np.asarray(counts[name], np.float64).sum(0) for name in ("labelled", "ignored"))
    notes, samples = [], len(counts["ignored"])
    absent = [name for name, pixels in zip(classes, labelled, strict=True) if not pixels]
    if absent:
        shown = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
        notes.append(f"{len(absent)} of {len(classes)} classes are labelled nowhere in these {samples} images: {shown}")
    total = float(labelled.sum() + ignored)
    if total and ignored / total > MUCH:
        notes.append(f"{100 * ignored / total:.0f} % of the labels' pixels are ignored and count nowhere")
    return notes


def class_iou(sums: Mapping[str, Array]) -> Array:
    """IoU of every class ``[..., C]`` from summed areas; NaN where a class was neither labelled nor predicted."""
    intersection = np.asarray(sums["intersection"], np.float64)
    return _ratio(intersection, sums["labelled"] + sums["predicted"] - intersection)


def segmentation_scores(sums: Mapping[str, Array]) -> dict[str, Array]:
    """``miou``, ``macc`` (mean over labelled classes) and ``aacc`` (pixels) in percent; leading axes are kept."""
    intersection = np.asarray(sums["intersection"], np.float64)
    labelled = np.asarray(sums["labelled"], np.float64)
    return {
        "miou": 100 * nan_mean(class_iou(sums)),
        "macc": 100 * nan_mean(_ratio(intersection, labelled)),
        "aacc": 100 * _ratio(intersection.sum(-1), labelled.sum(-1)),
    }


def nan_mean(values: Array) -> Array:
    """Mean over the last axis without NaN; NaN, and no warning, where nothing else is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=-1))


def _ratio(part: Array, whole: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)
