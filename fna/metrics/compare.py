"""Two outcomes on the same samples: what changed, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
    """``metrics``: name -> {"full", "variant", "delta", "ci": [low, high]} in percent, the interval that of the delta; "mcnemar_p"
    beside metrics that are hits of single samples, "better": "less" in those of which less is.

    ``fidelity``: "agreement" (percent of samples decided alike), "output_error" (mean relative error of the outputs) and their
    intervals "agreement_ci", "output_error_ci". All intervals are 95 % percentile bootstrap over samples.
    """

    metrics: dict[str, dict[str, Any]]
    fidelity: dict[str, Any]


class Paired:
    """Several outcomes on the same samples, resampled together: any two of them compare with the same bootstrap draws."""

    def __init__(
        self, outcomes: Sequence[Outcome], metrics_fn: Metrics, *, draws: int = 2000, seed: int = 0, errors: Collection[str] = ()
    ) -> None:
        """``metrics_fn`` maps sums of counts, leading axes kept, to named metrics (`Task.metrics`); of ``errors`` less is better.

        The samples may come in another order but must be the same ones. Raises `UserError` otherwise.
        """
        first = outcomes[0]
        orders = [aligned(first.keys, other.keys) for other in outcomes]
        self.n, self.seed, self.draws, self.errors = len(first.keys), seed, draws, errors
        self.counts = [
            {name: one.counts[name][order] for name in first.counts} for one, order in zip(outcomes, orders, strict=True)
        ]
        self.decisions = [one.decisions[order] for one, order in zip(outcomes, orders, strict=True)]
        self.outputs = [one.outputs[order] for one, order in zip(outcomes, orders, strict=True)]
        self.whole = [metrics_fn({name: values.sum(axis=0) for name, values in counts.items()}) for counts in self.counts]
        with np.errstate(divide="ignore", invalid="ignore"):  # one sample may lack what all together have
            self.single = [
                metrics_fn({name: np.asarray(values, np.float64) for name, values in counts.items()}) for counts in self.counts
            ]
        drawn: list[list[Mapping[str, Array]]] = [[] for _ in outcomes]
        for weights in resamples(self.n, draws, seed):
            for place, counts in enumerate(self.counts):
                drawn[place].append(metrics_fn({name: _summed(weights, values) for name, values in counts.items()}))
        self.drawn = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in drawn]

    def pair(self, full: int, variant: int) -> Comparison:
        """The outcome at place ``variant`` against the one at ``full``."""
        agree = 100.0 * (self.decisions[full] == self.decisions[variant]).reshape(self.n, -1).mean(axis=1)
        error = relative_error(self.outputs[full], self.outputs[variant])
        with np.errstate(invalid="ignore"):  # of errors that are infinite
            alike, errors = self._means(agree, error)
            fidelity = {
                "agreement": float(agree.mean()),
                "agreement_ci": _interval(alike),
                "output_error": float(error.mean()),
                "output_error_ci": _interval(errors),
            }
        metrics = {name: self._metric(name, full, variant) for name in self.whole[full]}
        return Comparison(metrics, fidelity)

    def _metric(self, name: str, full: int, variant: int) -> dict[str, Any]:
        before, after = self.whole[full][name], self.whole[variant][name]
        deltas = self.drawn[variant][name] - self.drawn[full][name]
        found: dict[str, Any] = {"full": float(before), "variant": float(after)}
        found |= {"delta": float(after - before), "ci": _interval(deltas)} | ({"better": "less"} if name in self.errors else {})
        if self._of_hits(name, full) and self._of_hits(name, variant):
            found["mcnemar_p"] = mcnemar(self.single[full][name] > 0, self.single[variant][name] > 0)
        return found

    def _of_hits(self, name: str, place: int) -> bool:
        """Whether a metric is the share of samples that were right: 0 or 100 of each, and their mean of all."""
        single = np.asarray(self.single[place][name])
        binary = single.shape == (self.n,) and bool(np.isin(single, (0.0, 100.0)).all())
        return binary and bool(np.isclose(single.mean(), self.whole[place][name]))

    def _means(self, *values: Array) -> list[Array]:
        """The mean of each ``[n]`` in every draw."""
        parts = [[weights @ value / self.n for value in values] for weights in resamples(self.n, self.draws, self.seed)]
        return [np.concatenate([part[place] for part in parts]) for place in range(len(values))]


def compare(full: Outcome, variant: Outcome, metrics_fn: Metrics, *, draws: int = 2000, seed: int = 0) -> Comparison:
    """`Paired` of two, `checked`."""
    return checked(Paired([full, variant], metrics_fn, draws=draws, seed=seed).pair(0, 1))


def checked(comparison: Comparison) -> Comparison:
    """``comparison`` itself. Raises `UserError` that names the metrics, or the output error, which are no finite number."""
    check_numbers({**comparison.metrics, "output_error": {"variant": comparison.fidelity["output_error"]}})
    return comparison


def mcnemar(before: Array, after: Array) -> float:
    """Two-sided p of McNemar's exact test (1947) on samples right or wrong, bool ``[n]`` each: are changes one way the likelier?

    Under the null hypothesis each sample that changed went either way with probability 1/2. 1 where none did.
    """
    from scipy.stats import binomtest

    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    return 1.0 if lost + won == 0 else float(binomtest(won, lost + won).pvalue)


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


def aligned(full: list[str], variant: list[str]) -> Array:
    """Where in ``variant`` each sample of ``full`` stands, int64 ``[n]``. Raises `UserError` where the samples are not the same."""
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
