"""Score stored answers again, without a model: ``python -m fna.metrics RUN/predictions.jsonl [--scoring RULE]``."""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take a while
    run("fna.metrics.__main__")

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fna.commands import Parser
from fna.errors import UserError
from fna.metrics.vqa import SCORINGS, clash, figures, misfit, tally
from fna.records import regular
from fna.streams import never_fail

FIELDS = {"variant": str, "answers": list, "said": str, "kind": str, "scoring": str}


def scored(path: Path, scoring: str | None = None) -> dict[str, dict[str, float]]:
    """Figures of each variant in a file of predictions. Raises `UserError` that names file and line."""
    lines: dict[str, list[dict[str, Any]]] = {}
    places: dict[tuple[str, Any], str] = {}
    try:
        content = regular(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the predictions.jsonl of a run of task=vqa.") from error
    for number, text in enumerate(content.split("\n"), 1):  # JSON may hold what str.splitlines takes for an end
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        line = _line(text, where)
        _check(line, where, scoring, lines.get(line["variant"], [line])[0])
        answered = line["variant"], line.get("key", number)
        if answered in places:
            raise UserError(
                f"{where}: {answered[0]} answers question {answered[1]} in {places[answered]} too; score each run's file by itself."
            )
        places[answered] = f"line {number}"
        lines.setdefault(line["variant"], []).append(line)
    if not lines:
        raise UserError(f"{path}: holds no predictions.")
    told = [line for found in lines.values() for line in found]
    if why := clash([line["kind"] for line in told], {str(line["group"]) for line in told if line.get("group")}):
        raise UserError(f"{path}: {why}.")
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


def _check(line: dict[str, Any], where: str, scoring: str | None, first: dict[str, Any]) -> None:
    """Raise `UserError` for a line that the rule cannot score, or that names another rule than the first of its variant."""
    if scoring is None and line["scoring"] != first["scoring"]:
        raise UserError(f"{where}: is scored by {line['scoring']}, lines before it by {first['scoring']}; say --scoring RULE.")
    rule = scoring or line["scoring"]
    if why := misfit(rule, line["answers"]):
        raise UserError(f"{where}: cannot be scored by {rule}: {why}; choose another --scoring.")


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
