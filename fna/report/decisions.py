"""What ``auto`` decided, block by block, as a table."""

from __future__ import annotations

import json
import re
from typing import Any

from fna.report import formats
from fna.report.grid import Grid
from fna.report.results import Result, dig
from fna.report.words import Part

SPEED = "speed (exact is 1)"  # of the method in that block, as a multiple of exact attention's
HEADS = ["block", "landmarks", "output error", SPEED, "decision"]


def decisions(result: Result) -> Grid | None:
    """A row for each block that was looked at; None where nothing was ``auto``.

    Of a block that keeps full attention: the figures of the count that failed it. Where blocks were given methods: those of each.
    """
    auto = json.loads(json.dumps(result.get("auto")))  # a result not yet written has numbers for keys
    if dig(auto, "methods") is not None:
        return _methods(auto)
    blocks = [int(found[1]) for line in dig(auto, "why") or [] if (found := re.match(r"block (\d+):", str(line)))]
    return (HEADS, [_row(auto, block) for block in blocks]) if blocks else None


def _row(auto: dict[str, Any], block: int) -> list[Part]:
    errors, speeds, limit = dig(auto, "errors", str(block)) or {}, auto.get("speedups") or {}, auto.get("tolerance")
    taken = dig(auto, "landmarks", str(block))
    good = [count for count, error in errors.items() if limit is None or error <= limit] if errors else list(speeds)
    if taken is not None:
        count, decision = str(taken), Part("approximated", "good")
    elif good:
        count, decision = good[0], Part("full attention: not faster")
    else:
        count = min(errors, key=lambda key: errors[key], default="")
        decision = Part(f"full attention: no count within {limit:g}" if limit is not None else "full attention")
    error, speed = formats.fixed(errors.get(count), 3), _timed(auto, speeds.get(count))
    return [Part(str(block)), Part(count or formats.NOTHING), Part(error), Part(speed), decision]


def _timed(auto: dict[str, Any], speed: Any) -> str:
    """A speed; in brackets where the machine was busy when it was taken."""
    text = formats.times(speed)
    return f"({text})" if auto.get("busy") and text != formats.NOTHING else text


def _methods(auto: dict[str, Any]) -> Grid:
    """A row for each block with the speed of every method there and its error alone, and one for all blocks together."""
    names = list(dict.fromkeys(name for speeds in auto["speedups"].values() for name in speeds))
    heads = ["block", *(head for name in names for head in (f"{name}: {SPEED}", "error alone")), "takes"]
    rows = []
    for block, speeds in auto["speedups"].items():
        errors, taken = dig(auto, "errors", block) or {}, auto["methods"].get(block)
        figures = [text for name in names for text in (_timed(auto, speeds.get(name)), formats.fixed(errors.get(name), 3))]
        rows.append([Part(block), *map(Part, figures), Part(str(taken), "good") if taken else Part("full attention")])
    bound = f"{formats.fixed(auto['error'], 3)} off together, {auto['tolerance']:g} allowed"
    return heads, [*rows, [Part("all"), *[Part("")] * (2 * len(names)), Part(bound)]]
