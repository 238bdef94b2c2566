"""Expected calibration error: the golden value, its bins, and that it comes from sums."""

import numpy as np
import pytest

from fna.metrics.calibration import calibration_counts, expected_calibration_error, gaps

CONFIDENCE = np.array([0.95, 0.9, 0.8, 0.6, 0.55, 0.3])
CORRECT = np.array([1, 1, 0, 1, 0, 0])


@pytest.mark.parametrize("bins", [5, 15])
def test_golden_value(bins: int) -> None:
    error = expected_calibration_error(gaps(CONFIDENCE, CORRECT, bins).sum(0), np.array(6))
    assert float(error) == pytest.approx(23.33, abs=0.01)


def test_bins_are_closed_on_the_right() -> None:
    placed = gaps(np.array([0.0, 0.2, 0.2001, 1.0]), np.zeros(4), 5)
    assert np.abs(placed).argmax(1).tolist()[1:] == [0, 1, 4]


def test_from_logits() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]]))
    counts = calibration_counts(logits.astype(np.float32), np.array([0, 2]))
    assert float(expected_calibration_error(counts["gap"].sum(0), np.array(2))) == pytest.approx(100 * (0.3 + 0.5) / 2, abs=1e-4)


def test_logits_of_any_size_stay_finite() -> None:
    counts = calibration_counts(np.array([[1e4, -1e4], [0.0, 0.0]], np.float32), np.array([1, 0]))
    assert all(np.isfinite(value).all() for value in counts.values())
