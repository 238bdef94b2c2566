"""Paired comparison: by hand, against a slow bootstrap, and what it must refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from fna.errors import UserError
from fna.metrics.compare import compare, relative_error, resamples


@dataclass
class Made:
    keys: list[str]
    counts: dict[str, np.ndarray]
    outputs: np.ndarray
    decisions: np.ndarray


def made(hits: list[int], keys: list[str] | None = None) -> Made:
    n = len(hits)
    names = keys or [f"s{index}" for index in range(n)]
    counts = {"hits": np.array(hits), "seen": np.ones(n, np.int64)}
    return Made(names, counts, np.stack([np.array(hits, np.float32), np.ones(n, np.float32)], axis=1), np.array(hits))


def accuracy(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"top1": 100 * sums["hits"] / sums["seen"]}


def test_by_hand() -> None:
    full, variant = made([1, 1, 0, 1]), made([1, 0, 0, 0])
    found = compare(full, variant, accuracy, draws=500)
    assert {name: found.metrics["top1"][name] for name in ("full", "variant", "delta")} == {"full": 75, "variant": 25, "delta": -50}
    assert found.fidelity["agreement"] == 50
    # outputs (1, 1) against (0, 1): error 1 / sqrt 2, for two of four samples
    assert found.fidelity["output_error"] == pytest.approx(2 / np.sqrt(2) / 4)
    low, high = found.metrics["top1"]["ci"]
    assert -100 <= low < -50 < high <= 0


def test_the_same_twice_has_no_width() -> None:
    found = compare(made([1, 0, 1]), made([1, 0, 1]), accuracy, draws=50)
    same = {"full": pytest.approx(200 / 3), "variant": pytest.approx(200 / 3), "delta": 0, "ci": [0, 0], "mcnemar_p": 1}
    assert found.metrics["top1"] == same
    assert found.fidelity == {"agreement": 100, "agreement_ci": [100, 100], "output_error": 0, "output_error_ci": [0, 0]}


def test_interval_against_a_slow_bootstrap() -> None:
    generator = np.random.default_rng(3)
    before, after = generator.integers(0, 2, 300), generator.integers(0, 2, 300)
    found = compare(made(before.tolist()), made(after.tolist()), accuracy, draws=4000)
    difference, deltas = after - before, []
    for _ in range(4000):
        deltas.append(100 * difference[generator.integers(300, size=300)].mean())
    assert found.metrics["top1"]["ci"] == pytest.approx(np.percentile(deltas, [2.5, 97.5]), abs=0.7)
    normal = 1.96 * 100 * difference.std() / np.sqrt(300)
    assert found.metrics["top1"]["ci"][1] - found.metrics["top1"]["delta"] == pytest.approx(normal, rel=0.1)


def test_seeded_and_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    full, variant = made([1, 0, 1, 1, 0]), made([1, 1, 0, 1, 0])
    whole = compare(full, variant, accuracy, draws=64)
    assert whole == compare(full, variant, accuracy, draws=64)
    monkeypatch.setattr("fna.metrics.compare.CHUNK", 7)
    assert compare(full, variant, accuracy, draws=64) == whole
    assert sum(len(weights) for weights in resamples(5, 64, 0)) == 64
    assert all((weights.sum(axis=1) == 5).all() for weights in resamples(5, 64, 0))


def test_samples_are_matched_by_key() -> None:
    full = made([1, 0, 0], ["a", "b", "c"])
    found = compare(full, made([0, 1, 0], ["c", "a", "b"]), accuracy, draws=10)
    assert (found.metrics["top1"]["delta"], found.fidelity["agreement"]) == (0, 100)
    for keys in (["a", "b", "d"], ["a", "b"], ["a", "b", "b"], ["a", "b", "c", "d"]):
        with pytest.raises(UserError, match="do not hold the same samples"):
            compare(full, made([0] * len(keys), keys), accuracy)
    with pytest.raises(UserError, match="same samples"):
        compare(made([]), made([]), accuracy)


def test_counts_with_more_axes_and_many_decisions() -> None:
    full, variant = made([1, 0]), made([1, 0])
    for outcome, hits in ((full, [[1, 2], [0, 1]]), (variant, [[1, 1], [0, 0]])):
        outcome.counts["hits"] = np.array(hits)
        outcome.decisions = np.array(hits)

    def per_class(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"mean": sums["hits"].mean(axis=-1)}

    found = compare(full, variant, per_class, draws=20)
    assert (found.metrics["mean"]["full"], found.metrics["mean"]["variant"]) == (2.0, 1.0)
    assert found.fidelity["agreement"] == 50


def test_a_metric_that_is_undefined_in_some_draws() -> None:
    full, variant = made([1, 0, 1]), made([0, 0, 1])
    for outcome in (full, variant):
        outcome.counts["seen"] = np.array([1, 0, 0])

    def rate(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"rate": np.where(sums["seen"] > 0, sums["hits"] / sums["seen"], np.nan)}

    assert np.isfinite(compare(full, variant, rate, draws=50).metrics["rate"]["ci"]).all()


def test_relative_error() -> None:
    full, variant = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 3.0], [0.0, 0.0], [1.0, 0.0]])
    assert relative_error(full, variant).tolist() == [pytest.approx(0.2), 0.0, np.inf]
