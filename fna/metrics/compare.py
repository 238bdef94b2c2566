"""Two outcomes on the same samples: what changed, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fna.errors import UserError

Array = np.ndarray
Metrics = Callable[[Mapping[str, Array]], Mapping[str, Array]]
INTERVAL = (2.5, 97.5)
CHUNK = 2**22  # resampling weights held at once (32 MiB)


class Outcome(Protocol):
    """What is compared of one pass over the data (`fna.tasks.base.Outcome`), one row a sample; decisions may be several each."""

    keys: list[str]
    counts: dict[str, Array]
    outputs: Array
    decisions: Array


@dataclass(frozen=True)
class Comparison:
    """``metrics``: name -> {"full", "variant", "delta", "ci": [low, high]} in percent, the interval that of the delta.

    ``fidelity``: "agreement" (percent of samples decided alike), "output_error" (mean relative error of the outputs) and their
    intervals "agreement_ci", "output_error_ci". All intervals are 95 % percentile bootstrap over samples.
    """

    metrics: dict[str, dict[str, Any]]
    fidelity: dict[str, Any]


def compare(full: Outcome, variant: Outcome, metrics_fn: Metrics, *, draws: int = 2000, seed: int = 0) -> Comparison:
    """Compare ``variant`` with ``full`` sample by sample.

    ``metrics_fn`` maps sums of counts, leading axes kept, to named metrics (`Task.metrics`). The samples may come in another
    order but must be the same ones. Raises `UserError` otherwise.
    """
    order = _aligned(full.keys, variant.keys)
    counts = {name: (values, variant.counts[name][order]) for name, values in full.counts.items()}
    agree = 100.0 * (full.decisions == variant.decisions[order]).reshape(len(order), -1).mean(axis=1)
    error = relative_error(full.outputs, variant.outputs[order])
    drawn: list[tuple[dict[str, Array], Array, Array]] = []
    n = len(full.keys)
    for weights in resamples(n, draws, seed):
        sums = [{name: _summed(weights, pair[side]) for name, pair in counts.items()} for side in (0, 1)]
        before, after = (metrics_fn(side) for side in sums)
        drawn.append(({name: after[name] - before[name] for name in before}, weights @ agree / n, weights @ error / n))
    before, after = (metrics_fn({name: pair[side].sum(axis=0) for name, pair in counts.items()}) for side in (0, 1))
    metrics = {
        name: {
            "full": float(before[name]),
            "variant": float(after[name]),
            "delta": float(after[name] - before[name]),
            "ci": _interval(np.concatenate([deltas[name] for deltas, _, _ in drawn])),
        }
        for name in before
    }
    fidelity = {
        "agreement": float(agree.mean()),
        "agreement_ci": _interval(np.concatenate([alike for _, alike, _ in drawn])),
        "output_error": float(error.mean()),
        "output_error_ci": _interval(np.concatenate([errors for _, _, errors in drawn])),
    }
    check_numbers({**metrics, "output_error": {"variant": fidelity["output_error"]}})
    return Comparison(metrics, fidelity)


def check_numbers(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `UserError` that names the figures which are no finite number, as where no sample holds what they count."""
    sides = {
        name: [side for side in ("full", "variant") if side in value and not np.isfinite(value[side])]
        for name, value in metrics.items()
    }
    bad = {name: found for name, found in sides.items() if found}
    if bad:
        said = ", ".join(f"{name} of {' and '.join(found)}" for name, found in bad.items())
        raise UserError(f"{said}: not a number; none of these samples holds what it counts (are their labels all ignored?).")


def relative_error(full: Array, variant: Array) -> Array:
    """``||variant - full|| / ||full||`` of each row ``[n]``; 0 where both are zero, infinite where only ``full`` is."""
    full, variant = np.asarray(full, np.float64), np.asarray(variant, np.float64)
    difference, size = np.linalg.norm(variant - full, axis=1), np.linalg.norm(full, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / size)


def resamples(n: int, draws: int, seed: int) -> Iterator[Array]:
    """How often each of n samples is drawn in each bootstrap draw: float64 ``[r, n]`` in pieces, ``draws`` rows in all."""
    generator = np.random.default_rng(seed)
    piece = max(1, min(draws, CHUNK // max(n, 1)))
    for start in range(0, draws, piece):
        rows = min(piece, draws - start)
        picked = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(picked.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _aligned(full: list[str], variant: list[str]) -> Array:
    """Where in ``variant`` each sample of ``full`` stands, int64 ``[n]``."""
    place = {key: index for index, key in enumerate(variant)}
    if not full or len(place) != len(variant) or len(set(full)) != len(full) or place.keys() != set(full):
        odd = sorted(place.keys() ^ set(full))
        lost = "mend what cannot be read any more, or compute both again with another rows_dir"
        why = f"{len(odd)} in one only, first {odd[0]}: {lost}" if odd else "empty, or a name twice: each sample needs its own"
        raise UserError(f"full ({len(full)} samples) and variant ({len(variant)}) do not hold the same samples ({why}).")
    return np.array([place[key] for key in full])


def _summed(weights: Array, values: Array) -> Array:
    """Weighted sums over samples: weights ``[r, n]`` and values ``[n, ...]`` give ``[r, ...]``."""
    return np.tensordot(weights, values.astype(np.float64), axes=1)


def _interval(values: Array) -> list[float]:
    if np.isnan(values).all():
        return [float("nan"), float("nan")]
    low, high = np.nanpercentile(values, INTERVAL)
    return [float(low), float(high)]
