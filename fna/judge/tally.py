"""What verdicts come to: counts of each question, the relative score that is made of their sums, a table by category.

The relative score is 100 times the mean score of the answers over that of the reference answers: a ratio of means, as LLaVA-Bench
has it, not a mean of ratios. A question none of whose judgements holds scores is in neither mean, and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fna.errors import UserError
from fna.judge.judging import Verdict
from fna.metrics.compare import INTERVAL, resamples

Array = np.ndarray
ANSWER, REFERENCE, SCORED = "answer_", "reference_", "scored_"  # then the category


def counts(categories: Sequence[str], verdicts: Sequence[Verdict]) -> dict[str, Array]:
    """What each question adds to the sums, float64 ``[n]`` each: mean scores under its category, judgements, calls, tokens.

    Raises `UserError` for a category of which no judgement holds scores.
    """
    found: dict[str, Array] = {}
    for category in dict.fromkeys(categories):
        own = [one if name == category else Verdict() for name, one in zip(categories, verdicts, strict=True)]
        if not any(one.scores for one in own):
            failed = [reason for one in own for reason in one.failed]
            raise UserError(f"judge: none of {len(failed)} judgements of {category} holds scores (first: {failed[0]}).")
        found[f"{ANSWER}{category}"] = np.array([one.answer for one in own])
        found[f"{REFERENCE}{category}"] = np.array([one.reference for one in own])
        found[f"{SCORED}{category}"] = np.array([float(bool(one.scores)) for one in own])
    sums = {"judged": "scores", "failed": "failed"}
    found |= {name: np.array([float(len(getattr(one, held))) for one in verdicts]) for name, held in sums.items()}
    return found | {
        name: np.array([float(getattr(one, name)) for one in verdicts]) for name in ("calls", "tokens_in", "tokens_out")
    }


def relative(sums: Mapping[str, Array]) -> dict[str, Array]:
    """``relative`` of all and ``relative_CATEGORY`` from sums of `counts`, and ``judged``: judgements that hold scores; percent."""
    names = judged(sums)
    if not names:
        return {}
    whole = {kind: sum(sums[f"{kind}{name}"] for name in names) for kind in (ANSWER, REFERENCE)}
    with np.errstate(divide="ignore", invalid="ignore"):  # a bootstrap draw may miss a category
        found = {"relative": 100.0 * whole[ANSWER] / whole[REFERENCE]}
        found |= {f"relative_{name}": 100.0 * sums[f"{ANSWER}{name}"] / sums[f"{REFERENCE}{name}"] for name in names}
        return found | {"judged": 100.0 * sums["judged"] / (sums["judged"] + sums["failed"])}


def judged(sums: Mapping[str, Any]) -> list[str]:
    """The categories that were judged."""
    return [name.removeprefix(REFERENCE) for name in sums if name.startswith(REFERENCE)]


def table(held: Mapping[str, Array], *, draws: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """A row for all questions, then one a category: how many, how many have scores, mean scores times 10, the relative score with
    its 95 % bootstrap interval over questions."""
    whole = {name: values.sum(0) for name, values in held.items()}
    drawn: dict[str, list[Array]] = {}
    for weights in resamples(len(next(iter(held.values()))), draws, seed):
        for name, values in relative({name: weights @ values for name, values in held.items()}).items():
            drawn.setdefault(name, []).append(values)
    scores = relative(whole)
    rows = []
    for category in (None, *judged(held)):
        names = judged(held) if category is None else [category]
        key = "relative" if category is None else f"relative_{category}"
        scored = float(sum(whole[f"{SCORED}{name}"] for name in names))
        low, high = np.nanpercentile(np.concatenate(drawn[key]), INTERVAL)
        rows.append(
            {
                "category": category or "all",
                "scored": int(scored),
                "reference": 10.0 * float(sum(whole[f"{REFERENCE}{name}"] for name in names)) / scored,
                "answer": 10.0 * float(sum(whole[f"{ANSWER}{name}"] for name in names)) / scored,
                "relative": float(scores[key]),
                "ci": [float(low), float(high)],
            }
        )
    return rows


def spent(held: Mapping[str, Array]) -> dict[str, int]:
    """Calls, tokens, and judgements with and without scores, of all questions."""
    return {name: int(held[name].sum()) for name in ("judged", "failed", "calls", "tokens_in", "tokens_out")}
