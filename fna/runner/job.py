"""One job from the command line: plan, run, and a ``result.json`` whatever happens. Loads torch only once the plan stands."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fna.errors import UserError
from fna.runner.files import checked_folder, json_bytes, write_atomic
from fna.runner.plan import Plan, prepare

RESULT_SCHEMA = 1


def run(cfg: DictConfig, names: Mapping[str, str], folder: Path, *, in_sweep: bool = False) -> tuple[float, float] | None:
    """Run one job and write ``result.json`` into ``folder``; returns (first metric of the variant, speedup) as objectives.

    A failure leaves a failed ``result.json``; one of the logger alone leaves the result whole, with ``unlogged`` in it. Alone it
    is raised; in a sweep it is printed and the next job runs.
    """
    started = time.perf_counter()
    try:
        checked_folder(folder)
        plan = prepare(cfg, names)
        from fna.runner.run import compare_variants

        result = compare_variants(plan, folder, started)
    except Exception as error:
        _write_failure(cfg, names, folder, error, time.perf_counter() - started)
        _note_traceback(error, folder)
        _tell(error, in_sweep)
        return None
    unlogged = _log(plan, result, folder)
    if unlogged is not None:
        _tell(unlogged, in_sweep)
    first = next(iter(result["metrics"].values()))
    return first["variant"], result["cost"].get("speedup", {}).get("median", float("nan"))


def _log(plan: Plan, result: dict[str, Any], folder: Path) -> UserError | None:
    """Hand the result to the logger, now that all else is written: returns the error that it came to, if any."""
    try:
        if plan.logger is not None:
            plan.logger.log(result, OmegaConf.to_container(plan.cfg, resolve=True), folder)
    except Exception as error:
        _note_traceback(error, folder)
        write_atomic(folder / "result.json", json_bytes(result | {"unlogged": _line(error)}))
        return UserError(f"{_line(error)} (all but the log is there: {folder})")
    return None


def _tell(error: Exception, in_sweep: bool) -> None:
    if not in_sweep:
        raise error
    print("failed: " + _line(error), file=sys.stderr)


def _note_traceback(error: Exception, folder: Path) -> None:
    """Keep where a bug is; what a user can mend is told in one line."""
    if not isinstance(error, UserError) and folder.is_dir():
        (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def typed(folder: Path) -> list[str]:
    """The words that made a job, as Hydra noted them in its folder: what was typed, and the job's own of a sweep's."""
    noted = folder / ".hydra" / "overrides.yaml"
    return [str(word) for word in OmegaConf.load(noted)] if noted.is_file() else []


def _write_failure(cfg: DictConfig, names: Mapping[str, str], folder: Path, error: Exception, seconds: float) -> None:
    if not folder.is_dir():
        return
    groups = ("model", "dataset", "task", "attn", "sampler", "reduce", "mask", "kv")
    result = {
        "schema": RESULT_SCHEMA,
        "status": "failed",
        "error": _line(error),
        **{group: names.get(group, "none") for group in groups},
        "landmarks": cfg.landmarks,
        "layers": str(cfg.layers),
        "seed": cfg.seed,
        "overrides": typed(folder),
        "seconds": round(seconds, 2),
    }
    # what was refused may be anything that YAML can say, a list of landmarks for one
    write_atomic(folder / "result.json", json_bytes(result))
