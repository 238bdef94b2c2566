"""Boundary IoU (Cheng et al. 2021) for label maps: IoU inside the inner band of each class, since blur shows at edges first.

The band of a class is its mask minus the mask eroded ``d`` times by a 3x3 square, the image border counting as an edge
(as in their code). A pixel is eroded away exactly when its (2d+1)-square holds another class or leaves the image, so one look
at the smallest and the largest class in that square serves all classes at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from fna.metrics.iou import IGNORE, class_iou, nan_mean

Array = np.ndarray
OUTSIDE = -1  # no class
SHARE = 0.02  # of the image's diagonal; 0.02 for COCO-like images, 0.005 for Cityscapes


def band_width(height: int, width: int, share: float = SHARE) -> int:
    """Pixels of the band: ``share`` of the diagonal, at least 1."""
    return max(1, round(share * float(np.hypot(height, width))))


def band(labels: Array, width: int) -> Array:
    """Bool ``[H, W]``: pixels within ``width`` of another class or of the image's border."""
    numbers, side = labels.astype(np.int32), 2 * width + 1
    largest, smallest = numbers, numbers
    for axis in (0, 1):  # a square is a line each way; scipy's lines take the same time whatever their length
        largest = maximum_filter1d(largest, side, axis, mode="constant", cval=OUTSIDE)
        smallest = minimum_filter1d(smallest, side, axis, mode="constant", cval=OUTSIDE)
    return largest != smallest


def boundary_areas(prediction: Array, label: Array, classes: int, ignore: int = IGNORE, share: float = SHARE) -> dict[str, Array]:
    """int64 counts ``[C]`` of one image: band pixels shared, labelled and predicted; ignored pixels are dropped afterwards."""
    width = band_width(label.shape[0], label.shape[1], share)
    keep = label != ignore
    in_label, in_prediction = band(label, width) & keep, band(prediction, width) & keep
    shared = in_label & in_prediction & (label == prediction)

    def count(where: Array, values: Array) -> Array:
        return np.bincount(values[where].astype(np.int64), minlength=classes)

    return {
        "boundary_intersection": count(shared, label),
        "boundary_labelled": count(in_label, label),
        "boundary_predicted": count(in_prediction, prediction),
    }


def boundary_score(sums: Mapping[str, Array]) -> Array:
    """Mean boundary IoU in percent from summed counts ``[..., C]``; absent classes are left out."""
    prefix = "boundary_"
    return 100 * nan_mean(class_iou({name.removeprefix(prefix): value for name, value in sums.items() if name.startswith(prefix)}))
