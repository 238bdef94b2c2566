"""From how many tokens on an approximation is the faster one: read off runs of several image sizes, as a sentence and as plots.

Between two sizes the logarithm of the speedup is taken to grow evenly with the logarithm of the tokens. The ends of the interval
are where the upper and the lower ends of the speedups' intervals cross in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fna.report import formats
from fna.report.results import Run, dig, interval, number, reference
from fna.report.words import unmeasured


@dataclass(frozen=True)
class Crossover:
    """``at`` tokens, between ``low`` and ``high``: 0 below the fewest tokens that were tried, infinity beyond the most.

    ``tried``: the fewest and the most; ``between``: the last image size that was not faster, and the one after it.
    """

    at: float
    low: float
    high: float
    tried: tuple[float, float]
    between: tuple[str, ...]

    def sentence(self, name: str) -> str:
        """What it comes to in words."""
        if self.at == 0:
            doubt = "" if self.high == 0 else f", beyond doubt from {_tokens(self.high)} on"
            return f"{name} is faster at every size that was tried, from {_tokens(self.tried[0])} tokens on{doubt}"
        if self.at == math.inf:
            doubt = "" if self.low == math.inf else f", where it may be so from {_tokens(self.low)} on"
            return f"{name} is faster at no size that was tried, up to {_tokens(self.tried[1])} tokens{doubt}"
        low = "fewer" if self.low == 0 else _tokens(self.low)
        high = "more than were tried" if self.high == math.inf else _tokens(self.high)
        return f"{name} is the faster from about {_tokens(self.at)} tokens on [{low}, {high}], between {' and '.join(self.between)}"


def crossovers(runs: Sequence[Run], named: Callable[[Run], str]) -> dict[str, Crossover]:
    """One for each line of runs, by its name, that was timed at two counts of tokens or more on a machine at rest."""
    lines: dict[str, dict[float, Run]] = {}
    for run in runs:
        tokens = number(run.result.get("tokens"))
        if run.ok and tokens and not unmeasured(run.result) and interval(dig(run.result, "cost", "speedup", "ci")):
            lines.setdefault(named(run), {})[tokens] = run
    return {name: _crossover(dict(sorted(line.items()))) for name, line in lines.items() if len(line) > 1}


def _crossover(line: dict[float, Run]) -> Crossover:
    tokens = list(line)
    speeds = [dig(run.result, "cost", "speedup") for run in line.values()]
    lower, upper = ([speed["ci"][end] for speed in speeds] for end in (0, 1))
    middle = [speed["median"] for speed in speeds]
    last = _last(middle)
    sizes = [formats.said("image_size", run.result.get("image_size")) for run in line.values()]
    return Crossover(
        crossing(tokens, middle),
        crossing(tokens, upper),
        crossing(tokens, lower),
        (tokens[0], tokens[-1]),
        tuple(sizes[max(0, last) : last + 2]),
    )


def crossing(tokens: Sequence[float], speedups: Sequence[float]) -> float:
    """The tokens from which on the speedup is above 1 to the end: 0 where it always is, infinity where it is not at the end."""
    last = _last(speedups)
    if last in (-1, len(tokens) - 1):
        return 0.0 if last == -1 else math.inf
    (x, y), (a, b) = ((math.log(tokens[place]), math.log(speedups[place])) for place in (last, last + 1))
    return math.exp(x - y * (a - x) / (b - y))


def _last(speedups: Sequence[float]) -> int:
    """The last place at which there is no speedup, -1 for none."""
    return max((place for place, speed in enumerate(speedups) if speed <= 1), default=-1)


def _tokens(count: float) -> str:
    """As a round number: two figures are all that an interpolation can give; a count that was tried as it is."""
    exact = count == int(count)
    return f"{count if exact else round(count, 1 - math.floor(math.log10(count))):,.0f}"


def sides(runs: Sequence[Run]) -> list[Run]:
    """The runs, and full attention as a run of its own for each count of tokens: what it costs stands in any of them."""
    full: dict[float, Run] = {}
    for run in runs:
        tokens, cost = number(run.result.get("tokens")), run.result.get("cost")
        if tokens and cost:
            rates, peaks = cost.get("images_per_second") or {}, cost.get("peak_memory_bytes") or {}
            own = {
                "images_per_second": {"variant": rates.get(reference(run.result))},
                "peak_memory_bytes": {"variant": peaks.get("full")},
            }
            told = {"attn": "full", "cost": {**own, "measurement": cost.get("measurement")}}
            full.setdefault(tokens, replace(run, result=run.result | told))
    return [*full.values(), *runs]
