#!/usr/bin/env bash
# torchmetrics 1.9.0: segmentation.MeanIoU is no mean IoU of a data set. It averages the IoU of every (image, class) pair.
#
# Expected: what papers on segmentation publish, and what Cityscapes', PASCAL's and mmseg's evaluation compute: intersections and unions of a class are
# summed over all images, their ratio is the class's IoU, and the mean over classes is mIoU. An accumulating metric object suggests just that.
# Seen: a class that covers 100 pixels in one image (all right) and one pixel in another (missed) has the IoU .5 by MeanIoU, .990 by pixels; with
# per_class=True too. The size of the batches does not matter, the size of an object does. No option sums over images; a class that is in no image
# is nan in the mean and -1 with per_class=True. JaccardIndex of the same package (classification) sums over images: .990.
# On 60 random label maps of 6 classes of unlike frequency the two differ by up to 8 points, and which of two predictions is better turns round.
# What to do: sum a confusion matrix (JaccardIndex with average="macro"); say which of the two a number is.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 torchmetrics==1.9.0 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
import torch
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU


def both(predicted: torch.Tensor, truth: torch.Tensor, classes: int) -> tuple[float, float]:
    """By MeanIoU and by sums over all pixels, of int64 ``[images, height, width]``."""
    by_image = MeanIoU(num_classes=classes, input_format="index")
    by_pixel = MulticlassJaccardIndex(classes, average="macro")
    for one, other in zip(predicted.split(2), truth.split(2)):
        by_image.update(one, other)
        by_pixel.update(one, other)
    return float(by_image.compute()), float(by_pixel.compute())


truth = torch.zeros(2, 20, 20, dtype=torch.long)
truth[0, :10, :10] = 1
truth[1, 0, 0] = 1
predicted = truth.clone()
predicted[1, 0, 0] = 0
metric = MeanIoU(num_classes=2, per_class=True, input_format="index")
metric.update(predicted, truth)
seen = metric.compute()
print("class 1, 100 of 101 pixels right: MeanIoU", round(float(seen[1]), 3), "by pixels", round(100 / 101, 3))
assert abs(float(seen[1]) - 0.5) < 1e-6, "changed"

draw = torch.Generator().manual_seed(0)
share = torch.tensor([0.70, 0.20, 0.06, 0.02, 0.01, 0.01])
truth = torch.multinomial(share, 60 * 64 * 64, replacement=True, generator=draw).view(60, 64, 64)
truth[:30] = truth[:30].where(truth[:30] < 3, 0)  # rare classes stand in half of the images
careful = truth.clone()
careful[:30][torch.rand(30, 64, 64, generator=draw) < 0.002] = 5  # a few pixels of a rare class where it is not
careless = torch.where(torch.rand(60, 64, 64, generator=draw) < 0.09, torch.zeros_like(truth), truth)  # a tenth of everything taken for background
one, other = both(careful, truth, 6), both(careless, truth, 6)
print("careful: by image %.3f, by pixel %.3f" % one)
print("careless: by image %.3f, by pixel %.3f" % other)
assert one[0] < other[0] and one[1] > other[1], "changed: the order of the two predictions turned round before"
PYTHON
