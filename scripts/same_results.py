"""Whether two folders of runs hold the same figures: ``python scripts/same_results.py BEFORE AFTER``.

Runs are matched by their place below the folder. Metrics, fidelity, samples and layers have to be the same to nine digits, which
leaves room for another order of the same sums; keys of rows, times and what only one of them says may differ. Exit status 1 and a
line for each difference.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

COMPARED = ("status", "samples", "layers", "landmarks", "metrics", "fidelity")


def main(before: str, after: str) -> int:
    """Compare every ``result.json``; the number of differences."""
    pairs = {file.relative_to(before): (file, Path(after) / file.relative_to(before)) for file in Path(before).rglob("result.json")}
    found = [line for name, (old, new) in sorted(pairs.items()) for line in differences(str(name.parent), old, new)]
    print("\n".join(found) or f"the same figures in all {len(pairs)} results")
    return len(found) if pairs else 1


def differences(name: str, old: Path, new: Path) -> list[str]:
    """A line for each figure that is in both and not the same."""
    if not new.is_file():
        return [f"{name}: no result"]
    before, after = (json.loads(file.read_text(encoding="utf-8")) for file in (old, new))
    leaves = [leaf for key in COMPARED for leaf in both(key, before.get(key), after.get(key))]
    return [f"{name}: {place}: {a} -> {b}" for place, a, b in leaves if not same(a, b)]


def same(before: Any, after: Any) -> bool:
    """Equal; numbers to nine digits."""
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(same, before, after))
    if isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(before) and math.isnan(after))
    return bool(before == after)


def both(place: str, before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """(place, before, after) of every leaf that both have; where one is no mapping, of the whole."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [leaf for key in before.keys() & after.keys() for leaf in both(f"{place}.{key}", before[key], after[key])]
    return [(place, before, after)]


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:3]) else 0)
