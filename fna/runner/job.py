"""One job from the command line: ask, run, and a ``result.json`` whatever happens. Loads torch only once what was asked stands."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fna.errors import UserError
from fna.records import json_bytes, write_atomic
from fna.report.results import read
from fna.runner.asked import Asked, ask
from fna.runner.failures import keep_traceback, line, mendable
from fna.runner.files import checked_folder
from fna.runner.leftovers import remove_bare
from fna.runner.result import failed, fallen
from fna.runner.versus import composed


def run(
    cfg: DictConfig, names: Mapping[str, str], folder: Path, *, words: Sequence[str] = (), in_sweep: bool = False
) -> tuple[float, float] | None:
    """Run one job and write ``result.json`` into ``folder``; returns (first metric of the variant, speedup) as objectives,
    of a task without metrics (agreement, speedup).

    ``words``: those that ``cfg`` was composed of, which the contenders of ``versus`` start from. What is refused before anything
    ran leaves no folder, and an earlier result as it is, except in a sweep, which counts its jobs. A later failure leaves a failed
    ``result.json``; one of the logger, or of a contender among others, leaves the result whole, and is in it. Alone a job raises
    it; in a sweep it is printed and the next job runs.
    """
    started = time.perf_counter()
    field = None
    try:
        checked_folder(folder)
        asked = ask(composed(cfg, names, words), words)
        from fna.runner.loaded import load
        from fna.runner.run import contest, line_up

        loaded = load(asked)
        field = line_up(asked, loaded, folder)
        result = contest(asked, loaded, field, folder, started)
        write_atomic(folder / "result.json", json_bytes(result))
    except (Exception, SystemExit) as raised:
        error = mendable(raised)
        early = field is None and isinstance(error, UserError) and not in_sweep
        if early and (remove_bare(folder) or read(folder / "result.json").get("status") == "ok"):
            _tell(error, False)  # raised
        keep_traceback(error, folder)
        kept = _write_failure(failed(cfg, names, folder, line(error), round(time.perf_counter() - started, 2)), folder)
        _tell(error, in_sweep and kept)
        return None
    if left := _after(asked, result, folder):
        _tell(UserError("; ".join(left)), in_sweep)
    agreement = result.get("fidelity", {}).get("agreement")  # of a first contender that failed there is none
    first = next((metric["variant"] for metric in result["metrics"].values()), agreement)
    return None if first is None else (first, result["cost"].get("speedup", {}).get("median", float("nan")))


def _after(asked: Asked, result: dict[str, Any], folder: Path) -> list[str]:
    """Show and log the result, which is kept whatever comes of that; a line for each that failed, and for lost contenders."""
    from fna.runner.shown import finish

    def log() -> None:
        if asked.logger is not None:
            asked.logger.log(result, OmegaConf.to_container(asked.cfg, resolve=True), folder)

    lost, count = fallen(result), len(result.get("contenders", ()))
    found = [f"{len(lost)} of {count} contenders failed ({'; '.join(lost)}); the others stand: {folder}"] if lost else []
    for key, what, work in (("unshown", "page", lambda: finish(result, folder)), ("unlogged", "log", log)):
        try:
            work()
        except Exception as raised:
            error = mendable(raised)
            keep_traceback(error, folder)
            result[key] = line(error)
            found.append(f"{line(error)} (all but the {what} is there: {folder})")
            with suppress(UserError):  # no room for that either: it is told anyway
                write_atomic(folder / "result.json", json_bytes(result))
    return found


def _tell(error: Exception, counted: bool) -> None:
    """Print the failure where the sweep counts it at its end; else raise it."""
    if not counted:
        raise error
    print("failed: " + line(error), file=sys.stderr)


def _write_failure(result: dict[str, Any], folder: Path) -> bool:
    """Write a failed ``result.json``; False where that cannot be done either."""
    try:
        write_atomic(folder / "result.json", json_bytes(result))
    except UserError:  # a full disk, a folder that is none: the error itself, which is raised, is told instead
        return False
    return True
