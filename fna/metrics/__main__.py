"""Score stored answers again, without a model: ``python -m fna.metrics RUN/predictions.jsonl [--scoring RULE]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fna.commands import Parser
from fna.errors import UserError
from fna.metrics.vqa import SCORINGS, figures, tally
from fna.records import regular
from fna.streams import never_fail

FIELDS = {"variant": str, "answers": list, "said": str, "kind": str, "scoring": str}


def scored(path: Path, scoring: str | None = None) -> dict[str, dict[str, float]]:
    """Figures of each variant in a file of predictions. Raises `UserError` that names file and line."""
    lines: dict[str, list[dict[str, Any]]] = {}
    try:
        content = regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the predictions.jsonl of a run of task=vqa.") from error
    for number, text in enumerate(content.splitlines(), 1):
        line = _line(text, f"{path}, line {number}")
        lines.setdefault(line["variant"], []).append(line)
    if not lines:
        raise UserError(f"{path}: holds no predictions.")
    return {variant: _figures(found, scoring) for variant, found in lines.items()}


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}).") from error
    for name, kind in FIELDS.items():
        if not isinstance(line, dict) or not isinstance(line.get(name), kind):
            raise UserError(f"{where}: {name} is missing, or of another type; each line needs {', '.join(FIELDS)}.")
    if not line["answers"] or line["scoring"] not in SCORINGS:
        raise UserError(f"{where}: answers are empty, or scoring is none of {', '.join(SCORINGS)}.")
    return line


def _figures(lines: Sequence[dict[str, Any]], scoring: str | None) -> dict[str, float]:
    answers, said, kinds = ([line[name] for line in lines] for name in ("answers", "said", "kind"))
    groups = [line.get("group", "") for line in lines]
    counts = tally(scoring or lines[0]["scoring"], answers, said, kinds, groups if all(groups) else ())
    return {name: float(value) for name, value in figures({name: each.sum() for name, each in counts.items()}).items()}


def main(words: list[str] | None = None) -> int:
    """Print a line a figure; exit status 1 and one line for what a user can mend."""
    asks = Parser("python -m fna.metrics", description=__doc__)
    asks.add_argument("predictions", type=Path)
    asks.add_argument("--scoring", choices=SCORINGS, help="another rule than the one that the file names")
    never_fail()
    try:
        args = asks.parse_args(words)
        found = scored(args.predictions, args.scoring)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for variant, told in found.items():
        for name, value in told.items():
            print(f"{variant}\t{name}\t{value:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
