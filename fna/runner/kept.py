"""Costs that need not be measured twice: a sweep that goes on in its folder finds those of its earlier jobs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.report.results import dig, read

SAME = ("versions", "python", "commit", "cpu", "threads", "cpu_kernels", "cpu_path", "gpu")


def kept_costs(
    folder: Path, rows: Sequence[str], rounds: int, batch_size: int, environment: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """The cost of each of ``rows`` (keys of the contenders' rows) in the job's earlier ``result.json``; None unless all are there.

    Each was measured by the same code on the same machine, with as many rounds, while nothing else ran. Changes that are not
    committed could be of any kind: with them nothing is kept. A run that is no job of a sweep measures anew.
    """
    if not (folder.parent / "multirun.yaml").is_file() or str(environment.get("commit")).endswith("-dirty"):
        return None
    earlier = read(folder / "result.json")
    if any(dig(earlier, "environment", key) != environment.get(key) for key in SAME):
        return None
    costs = {one.get("hash"): one.get("cost") for one in earlier.get("contenders") or [earlier]}
    found = [costs.get(row) for row in rows]
    return [cost for cost in found if cost] if all(_stands(cost, rounds, batch_size) for cost in found) else None


def _stands(cost: Any, rounds: int, batch_size: int) -> bool:
    """Whether a cost is a measurement of that length."""
    asked = dig(cost, "rounds") == rounds and dig(cost, "batch_size") == batch_size
    return asked and dig(cost, "measurement", "quiet") is True
