"""One job from the command line: plan, run, and a ``result.json`` whatever happens. Loads torch only once the plan stands."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fna.errors import UserError
from fna.runner.files import checked_folder, write_atomic
from fna.runner.plan import prepare

RESULT_SCHEMA = 1


def run(cfg: DictConfig, names: Mapping[str, str], folder: Path, *, in_sweep: bool = False) -> tuple[float, float] | None:
    """Run one job and write ``result.json`` into ``folder``; returns (first metric of the variant, speedup) as objectives.

    A failure leaves a failed ``result.json``. Alone it is raised; in a sweep it is printed and the next job runs.
    """
    started = time.perf_counter()
    try:
        checked_folder(folder)
        plan = prepare(cfg, names)
        from fna.runner.run import compare_variants

        result = compare_variants(plan, folder, started)
    except Exception as error:
        _write_failure(cfg, names, folder, error, time.perf_counter() - started)
        if not in_sweep:
            raise
        if not isinstance(error, UserError):
            (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        print("failed: " + " ".join(str(error).split()), file=sys.stderr)
        return None
    first = next(iter(result["metrics"].values()))
    return first["variant"], result["cost"].get("speedup", {}).get("median", float("nan"))


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
        "error": " ".join(f"{error}".split()) or type(error).__name__,
        **{group: names.get(group, "none") for group in groups},
        "landmarks": cfg.landmarks,
        "layers": str(cfg.layers),
        "seed": cfg.seed,
        "overrides": typed(folder),
        "seconds": round(seconds, 2),
    }
    # what was refused may be anything that YAML can say, a list of landmarks for one
    write_atomic(folder / "result.json", json.dumps(result, indent=1, default=str).encode())
