"""Reading result.json files and writing them as one results.csv.

Everything in `fna.report` works from files. A run folder holds ``result.json``: what was compared (`IDENTITY`, and "overrides", the
words that were typed), then "metrics", "fidelity" and "cost". One that cannot be read stays in the report as a run with the status
"broken" and a sentence why: nothing is dropped in silence.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fna.cells import csv_text
from fna.errors import UserError
from fna.records import regular, write_atomic
from fna.report.unfinished import unfinished

Result = dict[str, Any]

SCHEMA = 1
IDENTITY = (
    "model", "checkpoint", "dataset", "split", "task", "attn", "sampler", "reduce", "mask", "mask_start", "guarantee", "pieces",
    "kv", "landmarks", "layers", "plan", "image_size", "tokens", "samples", "seed", "dtype", "device",
)  # fmt: skip
# A setting that another one says already: a column of its own is for what no other tells.
FOLLOWS = {
    "checkpoint": "model", "model.checkpoint": "checkpoint", "split": "dataset", "dataset.root": "dataset",
    "limit": "samples", "dataset.count": "samples", "tokens": "image_size", "mask.blocks": "mask_start", "attn.partition": "pieces",
    "attn.rank": "landmarks", "attn.sampler._target_": "sampler",
    "sampler.cls": "guarantee", "sampler.massive": "guarantee", "sampler.artifact": "guarantee",
}  # fmt: skip
NAMES = frozenset({"model", "dataset", "split", "task", "attn", "sampler", "reduce", "mask", "kv", "dtype", "device"})  # one text
COUNTS = frozenset({"landmarks", "samples", "seed"})  # one number, or a word such as auto
TEXTS = ("notes", "warnings", "skipped", "overrides")  # lists of text
SILENT = frozenset(
    {"data_cache", "expected", "gallery", "logger", "retry_failed", "rows_dir", "versus", "workers"}
)  # knobs that no figure depends on


@dataclass(frozen=True)
class Run:
    """One run folder: where it lies, its name below the folder of the report, and what result.json said."""

    folder: Path
    name: str
    result: Result
    contender: bool = False  # whether it is one of several in a result, of which the folder shows the first

    @property
    def made(self) -> float:
        """When result.json was written, in seconds since 1970; 0 where it has gone."""
        try:
            return (self.folder / "result.json").stat().st_mtime
        except OSError:
            return 0.0

    @property
    def ok(self) -> bool:
        """Whether the result is whole."""
        return self.result.get("status") == "ok"


def load(folder: Path | str) -> list[Run]:
    """Every result.json at or below ``folder``, and the runs that never came to one, in the natural order of their paths (2 before
    10)."""
    root = Path(folder)
    if not os.path.isdir(root):  # unlike Path's, false for a name that no file can have
        raise UserError(f"{root}: no such folder; give one that holds result.json files, such as a folder below outputs")
    found = {path.parent: read(path) for path in root.rglob("result.json")}
    whole = {tuple(map(str, result["overrides"])) for result in found.values() if isinstance(result.get("overrides"), list)}
    found |= unfinished(root, whole)
    if not found:
        raise UserError(f"{root}: no result.json in this folder or below it; give the folder of a run or of a sweep")
    runs = [Run(place, place.relative_to(root).as_posix(), result) for place, result in found.items()]
    return sorted(runs, key=lambda run: natural(f"{run.name}/result.json" if run.name != "." else "result.json"))


def read(path: Path) -> Result:
    """The result in a file; of a file that makes no sense, a result with status "broken" that says why."""
    try:
        result = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return _broken(f"result.json cannot be read: {_one_line(error)}")
    if not isinstance(result, dict):
        return _broken(f"result.json holds a {type(result).__name__}, not an object")
    why = _problem(result)
    if why is None:
        return result
    told = {key: result[key] for key in (*IDENTITY, *TEXTS) if key in result and _fits(key, result[key])}
    return told | _broken(f"result.json is not whole: {why}")


def dig(tree: Any, *path: str) -> Any:
    """``tree[a][b]...``, None as soon as something is missing."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def number(value: Any) -> float | None:
    """A finite number, or None: missing values come as null or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def interval(value: Any) -> tuple[float, float] | None:
    """A ``[low, high]`` pair of finite numbers, or None."""
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def overrides(result: Result) -> dict[str, Any]:
    """What was typed for a result beside its identity: ``attn.steps`` -> 3; numbers are numbers, all else is text."""
    pairs = [str(word).lstrip("+").partition("=")[::2] for word in result.get("overrides") or []]
    return {key: _typed(text) for key, text in pairs if key not in IDENTITY and key.partition(".")[0] not in SILENT}


def setting(result: Result, key: str) -> Any:
    """A field of the identity, what was typed for another key, or what that was without a word; None where none is there."""
    return result[key] if key in result else ((dig(result, "options") or {}) | overrides(result)).get(key)


def reference(result: Result) -> str:
    """Which of full and exact the speedup is against: the faster one."""
    named = dig(result, "cost", "baseline")
    if isinstance(named, str):
        return named
    full, exact = (number(dig(result, "cost", "images_per_second", name)) for name in ("full", "exact"))
    return "exact" if exact is not None and exact > (full or 0.0) else "full"


def written_by(result: Result) -> list[str]:
    """The files beside a result that are of it; none of a result of before these were listed."""
    files = result.get("files")
    return [name for name in files if isinstance(name, str) and name == Path(name).name] if isinstance(files, list) else []


def expected_files(*results: Result) -> list[str]:
    """The files of others' figures that results name, each once; one that stands for several runs may name a list."""
    named = (result.get("expected") for result in results)
    return list(dict.fromkeys(str(path) for each in named for path in (each if isinstance(each, list) else [each]) if path))


def ratio(result: Result, *path: str) -> float | None:
    """Variant over full of a cost such as ``("cost", "flops")``."""
    full, variant = number(dig(result, *path, "full")), number(dig(result, *path, "variant"))
    return variant / full if full and variant is not None else None


def flatten(result: Result, typed: Iterable[str] = ()) -> dict[str, Any]:
    """One tidy row: identity and what else was typed, metrics, fidelity, cost; what is missing is None.

    ``typed``: settings that were typed for others beside it, and so have a column.
    """
    row = {"hash": result.get("hash"), "status": result.get("status")} | {key: _cell(result.get(key)) for key in IDENTITY}
    row |= {key: setting(result, key) for key in typed} | overrides(result)
    for name, metric in (dig(result, "metrics") or {}).items():
        low, high = interval(dig(metric, "ci")) or (None, None)
        row |= {f"{name}_{part}": number(dig(metric, part)) for part in ("full", "variant", "delta")}
        row |= {f"{name}_low": low, f"{name}_high": high}
    for name, value in (dig(result, "fidelity") or {}).items():
        ends = interval(value)
        row |= {f"{name.removesuffix('_ci')}_low": ends[0], f"{name.removesuffix('_ci')}_high": ends[1]} if ends else {}
        row |= {name: value} if number(value) is not None else {}
    row |= _cost(result) | {"seconds": number(result.get("seconds"))}
    words = [*(result.get("notes") or []), *(result.get("warnings") or [])]
    return row | {"skipped": len(result.get("skipped") or []), "notes": "; ".join(map(str, words)), "error": result.get("error")}


def write_csv(folder: Path | str, runs: Sequence[Run] | None = None) -> Path:
    """Write ``results.csv`` into ``folder``, one line a run: those given, else every result.json at or below it; its path."""
    runs = load(folder) if runs is None else runs
    path = Path(folder) / "results.csv"
    typed = dict.fromkeys(key for run in runs for key in overrides(run.result))
    write_text(path, csv_text({"folder": run.name} | flatten(run.result, typed) for run in runs))
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; what UTF-8 cannot say, half a character in a file's name, is escaped."""
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def _cost(result: Result) -> dict[str, Any]:
    cost = result.get("cost")
    if not isinstance(cost, dict):
        return {}
    low, high = interval(dig(cost, "speedup", "ci")) or (None, None)
    row: dict[str, Any] = {
        "speedup": number(dig(cost, "speedup", "median")),
        "speedup_low": low,
        "speedup_high": high,
        "no_measurement": "; ".join(map(str, dig(cost, "measurement", "reasons") or [])) or None,  # of the speed, and why
        "baseline": reference(result),
        "sampling_share": number(cost.get("sampling_share")),
        "flops_ratio": ratio(result, "cost", "flops"),
    }
    for group in ("images_per_second", "flops", "peak_memory_bytes", "stages"):
        row |= {f"{group}_{key}": number(value) for key, value in (dig(cost, group) or {}).items()}
    for token in ("first_token", "further_token"):
        row |= {f"{token}_seconds_{key}": number(value) for key, value in (dig(cost, token, "seconds") or {}).items()}
        row |= {f"{token}_speedup": number(dig(cost, token, "speedup", "median"))} if token in cost else {}
    return row


def _problem(result: Result) -> str | None:
    """What keeps a result from being used, in a few words; None if nothing does."""
    if result.get("schema") != SCHEMA:
        return f"schema {result.get('schema')!r}, this version reads {SCHEMA}"
    if not isinstance(result.get("status"), str):
        return "no status"
    wrong = [key for key in ("metrics", "fidelity", "cost", "environment", "options") if not isinstance(result.get(key, {}), dict)]
    if wrong:
        return f"{wrong[0]} is not an object"
    odd = next((key for key in (*TEXTS, *IDENTITY) if not _fits(key, result.get(key))), None)
    if odd is not None:
        return f"{odd} is {json.dumps(result[odd])[:40]}"
    if result["status"] == "ok" and not (result.get("metrics") or result.get("fidelity")):
        return "status ok, but no metrics"
    bad = [name for name, metric in result.get("metrics", {}).items() if not isinstance(metric, dict) or "delta" not in metric]
    return f"metric {bad[0]} has no delta" if bad else None


def _fits(key: str, value: Any) -> bool:
    """Whether a field is of the kind that is written: texts, block numbers, else a value or a list of them; or none."""
    if key in NAMES:
        return isinstance(value, str | None)
    if key in COUNTS and isinstance(value, list):
        return False
    if not isinstance(value, list):
        return value is None if key in TEXTS else not isinstance(value, dict)
    kind = str if key in TEXTS else int if key == "layers" else str | int | float
    return all(isinstance(each, kind) for each in value)


def _broken(why: str) -> Result:
    return {"status": "broken", "error": why}


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _typed(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text.lower() if text.lower() in ("true", "false") else text.strip("'\"")


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
