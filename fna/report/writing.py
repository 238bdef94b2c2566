"""What a model that writes costs: the time to its first token and of each further one, and the megabytes of its cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fna.report import formats, verdicts, words
from fna.report.results import Result, Run, dig, number, reference
from fna.report.words import Part

TOKENS = {"first_token": "first token", "further_token": "further token"}  # in `cost`: what they are called
CACHE = "kv_megabytes"
CONTROLS = ("resize", "random", "pool", "random_kv")  # policies that take no thought: what looks at anything has to beat them
SAME = 1.01  # times as many bytes that still count as no more
NAMED = 3  # policies and controls that a sentence names

Column = tuple[str, Callable[[Run], Part]]


def columns(runs: Sequence[Run]) -> list[Column]:
    """Of full and of the variant: megabytes of the cache, milliseconds to the first token and of each further one."""
    found: list[Column] = []
    if any(dig(run.result, "metrics", CACHE) for run in runs):
        found += [
            ("cache MB of full", lambda run: Part(formats.fixed(dig(run.result, "metrics", CACHE, "full")))),
            ("cache MB", lambda run: Part(formats.fixed(dig(run.result, "metrics", CACHE, "variant")))),
        ]
    for key, called in TOKENS.items():
        found.append((f"ms {called} of full", lambda run, key=key: Part(milliseconds(run.result, key, "full"))))  # type: ignore[misc]
        found.append((f"ms {called}", lambda run, key=key: Part(milliseconds(run.result, key, "variant"), mark(run.result, key))))  # type: ignore[misc]
    return found


def rows(result: Result) -> list[list[Part]]:
    """The lines of the table of costs: full, exact, variant, and how many times as fast; none where nothing was written."""
    made = []
    for key, called in TOKENS.items():
        if dig(result, "cost", key):
            sides = [Part(milliseconds(result, key, side)) for side in ("full", "exact", "variant")]
            sides[-1] = sides[-1]._replace(mark=mark(result, key))
            made.append([Part(f"ms {called}"), *sides, Part(_against(result, key))])
    return made


def milliseconds(result: Result, key: str, side: str) -> str:
    """Of a token; in brackets where the machine was too busy for a measurement."""
    seconds = number(dig(result, "cost", key, "seconds", side))
    return formats.NOTHING if seconds is None else words.timed(formats.rate(1000 * seconds), result)


def mark(result: Result, key: str) -> str:
    """ "good", "bad" or "even": faster or slower than the reference beyond the noise."""
    low, high = dig(result, "cost", key, "speedup", "ci") or (0.0, 2.0)
    return "" if words.unmeasured(result) else "even" if low <= 1 <= high else "good" if low > 1 else "bad"


def _against(result: Result, key: str) -> str:
    speedup = dig(result, "cost", key, "speedup")
    told = f"{formats.times(dig(speedup, 'median'))} {formats.limits(dig(speedup, 'ci'))} against {reference(result)}"
    return words.timed(told, result)


def is_control(result: Result) -> bool:
    """Whether nothing was looked at to choose what stays."""
    return result.get("kv") in CONTROLS


def beaten(result: Result) -> dict[str, list[str]]:
    """Of each control of one result the other policies than which it is better beyond the noise with no more bytes of cache."""
    of = {str(one.get("label")): one for one in result.get("contenders") or [] if one.get("status") == "ok"}
    found: dict[str, list[str]] = {name: [] for name, one in of.items() if is_control(one)}
    for pair in result.get("pairs") or []:
        for control, other, sign in ((pair["a"], pair["b"], -1), (pair["b"], pair["a"], 1)):
            if control in found and other in of and not is_control(of[other]) and _wins(of[control], of[other], pair, sign):
                found[control].append(other)
    return found


def _wins(control: Result, other: Result, pair: Result, sign: int) -> bool:
    """Whether the interval of their difference leaves out zero, and the control's cache is no larger. ``sign``: of b - a."""
    own, their = (number(dig(one, "metrics", CACHE, "variant")) for one in (control, other))
    key = verdicts.primary(control)[0] if verdicts.primary(control) else ""
    low, high = dig(pair, "metrics", key, "ci") or (0.0, 0.0)
    gain = -sign if verdicts.is_error(key, dig(pair, "metrics", key)) else sign
    better = low > 0 if gain > 0 else high < 0
    return better and own is not None and their is not None and own <= SAME * their


def control_sentence(runs: Sequence[Run]) -> list[Part]:
    """Where controls win, for a headline; nothing where none was asked beside others."""
    results = [run.result for run in runs if not run.contender and run.result.get("pairs")]
    each = [(name, lost) for result in results for name, lost in beaten(result).items()]
    if not each:
        return []
    won = sorted(((name, lost) for name, lost in each if lost), key=lambda both: -len(both[1]))
    if not won:
        return [Part(" No control wins: none is better than a policy that keeps as much.")]
    told = [f"{name} over {_listed(lost)}" for name, lost in won[:NAMED]]
    told += [f"{len(won) - NAMED} more"] if len(won) > NAMED else []
    return [Part(" Controls win", "bad"), Part(f", with no more cache: {'; '.join(told)}.")]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
