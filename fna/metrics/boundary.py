"""Boundary IoU (Cheng et al. 2021) for label maps: IoU inside the inner band of each class, since blur shows at edges first.

The band of a class is its mask minus the mask eroded ``d`` times by a 3x3 square, the image border counting as an edge
(as in their code). A pixel is eroded away exactly when its (2d+1)-square holds another class or leaves the image, so one look
at the smallest and the largest class in that square serves all classes at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fna.metrics.iou import IGNORE, class_iou, nan_mean

Array = np.ndarray
SHARE = 0.02  # of the image's diagonal; 0.02 for COCO-like images, 0.005 for Cityscapes


def band_width(height: int, width: int, share: float = SHARE) -> int:
    """Pixels of the band: ``share`` of the diagonal, at least 1."""
    return max(1, round(share * float(np.hypot(height, width))))


def band(labels: Array, width: int) -> Array:
    """Bool ``[H, W]``: pixels within ``width`` of another class or of the image's border."""
    padded = F.pad(torch.from_numpy(labels.astype(np.float32))[None, None], (width,) * 4, value=-1.0)
    same = _largest(padded, width) == -_largest(-padded, width)
    return ~same[0, 0].numpy()


def _largest(image: Tensor, width: int) -> Tensor:
    side = 2 * width + 1  # two passes of a line instead of one of a square: the same maximum, in time linear in the side
    return F.max_pool2d(F.max_pool2d(image, (1, side), stride=1), (side, 1), stride=1)


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
