"""Mean IoU: hand-worked figures, ignored and absent labels, bootstrap axes, and what torchmetrics makes of the same pixels."""

import numpy as np
import pytest

from fna.metrics.boundary import band, band_width, boundary_areas, boundary_score
from fna.metrics.iou import areas, class_iou, confusion, segmentation_scores

LABELS = np.array([0, 0, 1, 1, 2, 255])
PREDICTIONS = np.array([0, 1, 1, 1, 0, 3])


def test_golden_values() -> None:
    sums = areas(confusion(PREDICTIONS, LABELS, 5))
    assert sums["intersection"].tolist() == [1, 2, 0, 0, 0]
    union = sums["labelled"] + sums["predicted"] - sums["intersection"]
    assert union.tolist() == [3, 3, 1, 0, 0]
    scores = segmentation_scores(sums)
    assert [float(scores[name]) for name in ("miou", "aacc", "macc")] == pytest.approx([100 / 3, 60, 50])


def test_three_by_three_by_hand() -> None:
    label = np.array([[0, 0, 1], [0, 255, 1], [2, 2, 1]])
    prediction = np.array([[0, 1, 1], [0, 2, 1], [2, 0, 1]])
    matrix = confusion(prediction, label, 4)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 3, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert class_iou(areas(matrix)).tolist() == pytest.approx([2 / 4, 3 / 4, 1 / 2, float("nan")], nan_ok=True)


def test_absent_class_is_left_out_and_a_predicted_one_counts_as_zero() -> None:
    label, prediction = np.zeros((3, 3), int), np.zeros((3, 3), int)
    assert float(segmentation_scores(areas(confusion(prediction, label, 3)))["miou"]) == 100
    prediction[0, 0] = 2
    assert float(segmentation_scores(areas(confusion(prediction, label, 3)))["miou"]) == pytest.approx(100 * (8 / 9 + 0) / 2)


def test_an_image_of_ignored_pixels_adds_nothing() -> None:
    sums = areas(confusion(np.ones((3, 3), int), np.full((3, 3), 255), 2))
    assert all(value.sum() == 0 for value in sums.values())
    assert all(np.isnan(value) for value in segmentation_scores(sums).values())


def test_leading_axes_are_kept() -> None:
    matrices = np.random.default_rng(0).integers(0, 9, (7, 4, 4))
    together = segmentation_scores(areas(matrices))
    for row, matrix in enumerate(matrices):
        alone = segmentation_scores(areas(matrix))
        assert all(float(alone[name]) == pytest.approx(together[name][row]) for name in alone)


def test_values_out_of_range_and_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 to 4"):
        confusion(np.array([0]), np.array([4]), 3)
    with pytest.raises(ValueError, match="differ in size"):
        confusion(np.zeros((2, 2)), np.zeros((2, 3)), 3)


def test_torchmetrics_agrees_except_on_absent_classes() -> None:
    jaccard = pytest.importorskip("torchmetrics.classification").MulticlassJaccardIndex
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(1)
    label, prediction = generator.integers(0, 4, (40, 40)), generator.integers(0, 5, (40, 40))
    label[:5] = 255
    ours = class_iou(areas(confusion(prediction, label, 6)))
    pixels = torch.from_numpy(prediction), torch.from_numpy(label)
    theirs = jaccard(6, average="none", ignore_index=255)(*pixels).numpy()
    assert ours[:5] == pytest.approx(theirs[:5], abs=1e-6)
    assert np.isnan(ours[5])
    assert theirs[5] == 0  # the reason for our own: an absent class is no zero


def test_pixels_are_summed_over_images_before_they_are_divided() -> None:
    """torchmetrics 1.9.0 averages over pairs of image and class, .5 here (findings/torchmetrics_mean_iou_of_images.sh)."""
    label = np.zeros((2, 20, 20), int)
    label[0, :10, :10] = label[1, 0, 0] = 1
    prediction = label.copy()
    prediction[1, 0, 0] = 0
    images = np.stack([confusion(*pair, 2) for pair in zip(prediction, label, strict=True)])
    assert class_iou(areas(images.sum(0)))[1] == pytest.approx(100 / 101)


def square(top: int, side: int = 40) -> np.ndarray:
    image = np.zeros((100, 100), int)
    image[top : top + side, 30 : 30 + side] = 1
    return image


def test_boundary_golden_values() -> None:
    assert band_width(100, 100) == 3
    label, shifted = square(30), square(32)
    assert int((band(label, 3) & (label == 1)).sum()) == 444
    counts = boundary_areas(shifted, label, 2)
    assert float(class_iou(areas(confusion(shifted, label, 2)))[1]) == pytest.approx(0.9048, abs=1e-4)
    inner = {name.removeprefix("boundary_"): value for name, value in counts.items()}
    assert float(class_iou(inner)[1]) == pytest.approx(0.5, abs=1e-3)
    half = np.zeros((100, 100), int)
    half[:50] = 1
    assert int((band(half, 3) & (half == 1)).sum()) == 864


def test_boundary_drops_ignored_pixels_and_is_whole_for_itself() -> None:
    label = square(30)
    label[:, :10] = 255
    counts = boundary_areas(np.where(label == 255, 0, label), label, 2)
    assert counts["boundary_labelled"].sum() == (band(label, 3) & (label != 255)).sum()
    assert float(boundary_score(boundary_areas(square(30), square(30), 2))) == 100
