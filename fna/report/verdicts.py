"""What the metrics of a result allow to be said: which one speaks for it, and whether it was gained, lost or kept."""

from __future__ import annotations

from typing import Any

from fna.report import formats
from fna.report.results import Result, dig, interval, number

ERRORS = frozenset({"ece", "perplexity", "kv_megabytes"})  # metrics of which less is better
TAKEN = frozenset({"kv_megabytes"})  # metrics of what a run takes, not of what it answers
PRIMARY = (("t2i_r1", "i2t_r1"), ("top1",), ("miou",), ("vqa_accuracy",), ("relative",))
FEW = 100  # samples below which an interval of [0, 0] shows nothing: too few could have changed
CLOSE = -1.5  # points: an interval that holds zero and does not reach below this lets a headline say "keeps"


def primary(result: Result) -> list[str]:
    """The metrics that stand for the quality of a result."""
    metrics = result.get("metrics") or {}
    for names in PRIMARY:
        if found := [key for key in names if key in metrics]:
            return found
    return list(metrics)[:1]


def weakest(result: Result) -> str | None:
    """The primary metric that a headline has to name: what lost most, a loss beyond the noise before any other."""

    def rank(key: str) -> tuple[bool, float]:
        metric = dig(result, "metrics", key)
        return tone(key, metric) != "bad", _upward(key, metric)[0] or 0.0

    return min(primary(result), key=rank, default=None)


def told_by(result: Result) -> str:
    """By what a result is told: its weakest metric, else how often it agrees with full; "" where neither was measured."""
    agrees = number(dig(result, "fidelity", "agreement")) is not None
    return weakest(result) or ("agreement" if agrees else "")


def is_error(key: str, metric: Any) -> bool:
    """Whether less of a metric is better: by its name, or because the result says so."""
    return key in ERRORS or dig(metric, "better") == "less"


def gained(result: Result) -> tuple[float | None, tuple[float, float] | None]:
    """The difference and the interval of the weakest metric, turned so that more is better."""
    key = weakest(result) or ""
    return _upward(key, dig(result, "metrics", key))


def _upward(key: str, metric: Any) -> tuple[float | None, tuple[float, float] | None]:
    delta, ci = number(dig(metric, "delta")), interval(dig(metric, "ci"))
    if not is_error(key, metric):
        return delta, ci
    return None if delta is None else -delta, None if ci is None else (-ci[1], -ci[0])


def verdict(result: Result) -> str:
    """What the weakest metric allows to be said (`judge`); where nothing was right to begin with, nothing."""
    return "unclear" if nothing_right(result) else judge(*gained(result), result.get("samples"))


def nothing_right(result: Result) -> bool:
    """Whether full and the approximation alike got nothing right, so that there was nothing to lose."""
    key = weakest(result) or ""
    metric = dig(result, "metrics", key)
    return not is_error(key, metric) and key not in formats.FINDINGS and dig(metric, "full") == 0 == dig(metric, "variant")


def judge(delta: Any, ci: Any, samples: Any = None) -> str:
    """ "gains", "loses", "keeps" or "unclear": what a difference and its interval allow to be said."""
    pair = interval(ci)
    if number(delta) is None or pair is None:
        return "unclear"
    if pair[0] > 0 or pair[1] < 0:
        return "gains" if pair[0] > 0 else "loses"
    few = number(samples) is not None and (samples < FEW or (pair == (0, 0) and unseen(samples) > -CLOSE))
    return "keeps" if pair[0] >= CLOSE and not few else "unclear"


def unseen(samples: float) -> float:
    """Percent of all samples that may still change where none of so many did (95 %, rule of three)."""
    return min(100.0, 300 / samples)


def tone(key: str, metric: Any, even: str = "even") -> str:
    """ "good", "bad" or ``even``: how a metric's difference is coloured; of an error, less is good; a finding is neither."""
    if key in formats.FINDINGS:
        return even
    return {"gains": "good", "loses": "bad"}.get(judge(*_upward(key, metric)), even)
