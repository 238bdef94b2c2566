"""Calibration as sums over samples: what each sample adds to its confidence bin, binned as Guo et al. (2017) do."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
BINS = 15


def calibration_counts(logits: Array, labels: Array, bins: int = BINS) -> dict[str, Array]:
    """What each sample adds: ``gap`` ``[n, bins]``, confidence minus correctness in the bin of its confidence.

    ``logits`` ``[n, C]`` as the model gives them (its own temperature included), ``labels`` ``[n]``. Bins are equally wide and
    closed on the right, (i / bins, (i + 1) / bins]; the confidence is the largest softmax probability.
    """
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    confidence = np.exp(log_probability.max(1))
    correct = log_probability.argmax(1) == labels
    return {"gap": gaps(confidence, correct, bins)}


def gaps(confidence: Array, correct: Array, bins: int = BINS) -> Array:
    """``[n, bins]``: confidence minus correctness, placed in each sample's bin and 0 elsewhere."""
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    result = np.zeros((len(confidence), bins))
    result[np.arange(len(confidence)), place] = confidence - correct
    return result


def expected_calibration_error(gap: Array, seen: Array) -> Array:
    """ECE in percent from the summed gaps ``[..., bins]`` and the number of samples ``[...]``."""
    return 100 * np.abs(gap).sum(-1) / seen
