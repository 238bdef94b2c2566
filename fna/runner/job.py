"""One job from the command line: plan, run, and a ``result.json`` whatever happens. Loads torch only once the plan stands."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fna.errors import UserError
from fna.runner.failures import keep_traceback, line, mendable
from fna.runner.files import checked_folder, write_atomic
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
    except Exception as raised:
        error = mendable(raised)
        keep_traceback(error, folder)
        kept = _write_failure(cfg, names, folder, error, time.perf_counter() - started)
        _tell(error, in_sweep and kept)
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
        keep_traceback(error, folder)
        write_atomic(folder / "result.json", json.dumps(result | {"unlogged": line(error)}, indent=1).encode())
        return UserError(f"{line(error)} (all but the log is there: {folder})")
    return None


def _tell(error: Exception, counted: bool) -> None:
    """Print the failure where the sweep counts it at its end; else raise it."""
    if not counted:
        raise error
    print("failed: " + line(error), file=sys.stderr)


def typed(folder: Path) -> list[str]:
    """The words that made a job, as Hydra noted them in its folder: what was typed, and the job's own of a sweep's."""
    noted = folder / ".hydra" / "overrides.yaml"
    return [str(word) for word in OmegaConf.load(noted)] if noted.is_file() else []


def _write_failure(cfg: DictConfig, names: Mapping[str, str], folder: Path, error: Exception, seconds: float) -> bool:
    """Write a failed ``result.json``; False where that cannot be done either."""
    groups = ("model", "dataset", "task", "attn", "sampler", "reduce", "mask", "kv")
    result = {
        "schema": RESULT_SCHEMA,
        "status": "failed",
        "error": line(error),
        **{group: names.get(group, "none") for group in groups},
        "landmarks": cfg.landmarks,
        "layers": str(cfg.layers),
        "seed": cfg.seed,
        "overrides": typed(folder),
        "seconds": round(seconds, 2),
    }
    # what was refused may be anything that YAML can say, a list of landmarks for one
    try:
        write_atomic(folder / "result.json", json.dumps(result, indent=1, default=str).encode())
    except UserError:  # a full disk, a folder that is none: the error itself, which is raised, is told instead
        return False
    return True
