"""Judge kept answers again, without a model: ``python -m fna.judge ANSWERS.jsonl ... --data FOLDER --base-url URL --model NAME``.

``ANSWERS``: a line of JSON each with ``question_id`` and ``text``, as task=llava_bench keeps them and LLaVA's own scripts do.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take a while
    run("fna.judge.__main__", then="judgements that were kept are not asked for again")

import argparse
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fna.commands import Parser
from fna.constructors import options_of
from fna.data.asked import lines
from fna.data.base import OpenQuestion
from fna.data.llava_bench import LlavaBench
from fna.errors import UserError
from fna.judge import tally
from fna.judge.endpoint import Calls
from fna.judge.judging import Judge, Matter
from fna.records import json_bytes, write_atomic
from fna.streams import never_fail
from fna.values import counted, held

NOT_TYPED = ("version", "calls", "swap", "dry_run")


def main(words: list[str] | None = None) -> int:
    """Exit status 0 where every answer was judged; one line on stderr and 1 for what a user can mend."""
    never_fail()
    try:
        return _run(_parser().parse_args(words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> Parser:
    parser = Parser("python -m fna.judge", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("answers", nargs="+", type=Path, help="files of answers, a line of JSON each")
    parser.add_argument("--data", dest="data_root", required=True, help="the folder of dataset=llava_bench")
    for name, knob in (("questions", "questions"), ("references", "answers"), ("context", "context")):
        parser.add_argument(f"--{name}", dest=f"data_{knob}", help="a file in it, where it is called otherwise")
    for kind in (Judge, Calls):
        for name in (field.name for field in fields(kind) if field.name not in NOT_TYPED):
            parser.add_argument(f"--{name.replace('_', '-')}", dest=name)
    parser.add_argument("--no-swap", action="store_true", help="the reference answer first, always")
    parser.add_argument("--dry-run", action="store_true", help="count the calls, make none")
    parser.add_argument("--out", type=Path, help="a JSON file for the scores")
    return parser


def _run(typed: argparse.Namespace) -> int:
    calls = Calls(**_given(Calls, typed))
    judge = Judge(**_given(Judge, typed), swap=not typed.no_swap, dry_run=typed.dry_run, calls=calls)
    judge.check()
    if not judge.there:
        raise UserError("--base-url: give the endpoint's address, such as http://localhost:8000/v1.")
    names = {name.removeprefix("data_"): value for name, value in vars(typed).items() if name.startswith("data_") and value}
    data = {one.key: one for one in LlavaBench(**names, missing="grey").load(None).examples}
    found = []
    for file in typed.answers:
        asked, matters = _matters(file, data)
        print(f"{file}: {judge.plan(matters).sentence(calls)}", file=sys.stderr)
        if judge.dry_run:
            continue
        counts = tally.counts([one.category for one in asked], judge.judge(matters))
        spent = tally.spent(counts)
        cost = calls.cost(spent["tokens_in"], spent["tokens_out"])
        found.append(
            {"answers": str(file), "rows": tally.table(counts), **spent, "cost": cost, "unanswered": len(data) - len(asked)}
        )
        _show(found[-1])
    if typed.out is not None and found:
        write_atomic(typed.out, json_bytes({"model": judge.model, "base_url": judge.base_url, "answers": found}))
    return 0


def _given(kind: type, typed: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed, each as its field takes it."""
    kinds = options_of(kind).kinds
    given = {name: getattr(typed, name) for name in kinds if getattr(typed, name, None) is not None and name not in NOT_TYPED}
    return {name: held(kinds[name], _value(text), f"--{name.replace('_', '-')}") for name, text in given.items()}


def _value(text: str) -> object:
    """A number where it is one, null as None."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None if text == "null" else text


def _matters(file: Path, data: dict[str, OpenQuestion]) -> tuple[list[OpenQuestion], list[Matter]]:
    told = {entry.ident("question_id"): entry.text("text") for entry in lines(file)}
    strange = sorted(told.keys() - data.keys())
    if strange or not told:
        what = f"answers question {strange[0]}, which --data does not hold" if strange else "holds no answer"
        raise UserError(f"{file}: {what}; give answers to these questions.")
    asked = [data[key] for key in data if key in told]
    return asked, [Matter(one.key, one.context, one.question, one.reference, told[one.key]) for one in asked]


def _show(one: Mapping[str, Any]) -> None:
    cost = "" if one["cost"] is None else f", {one['cost']:.2f} at the prices given"
    grid = Table(
        title=str(one["answers"]),
        caption=f"{counted(one['judged'], 'judgement')} with scores, {one['failed']} without, "
        f"{counted(one['unanswered'], 'question')} not answered; {counted(one['calls'], 'call')}, "
        f"{one['tokens_in']:,} tokens in, {one['tokens_out']:,} out{cost}",
    )
    for head in ("category", "questions", "reference", "answer", "relative", "95 % interval"):
        grid.add_column(head, justify="left" if head == "category" else "right")
    for row in one["rows"]:
        scores = [f"{row[key]:.1f}" for key in ("reference", "answer", "relative")]
        grid.add_row(row["category"], str(row["scored"]), *scores, f"[{row['ci'][0]:.1f}, {row['ci'][1]:.1f}]".replace("[", r"\["))
    Console().print(grid)
