"""One job from the command line: ask, run, and a ``result.json`` whatever happens. Loads torch only once what was asked stands."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fna.errors import UserError
from fna.runner.asked import Asked, ask
from fna.runner.files import checked_folder, write_atomic
from fna.runner.result import failed, fallen
from fna.runner.versus import composed


def run(
    cfg: DictConfig, names: Mapping[str, str], folder: Path, *, words: Sequence[str] = (), in_sweep: bool = False
) -> tuple[float, float] | None:
    """Run one job and write ``result.json`` into ``folder``; returns (first metric of the variant, speedup) as objectives.

    ``words``: those that ``cfg`` was composed of, which the contenders of ``versus`` start from. A failure leaves a failed
    ``result.json``; one of the logger, or of a contender among others, leaves the result whole, and is in it. Alone a job raises
    it; in a sweep it is printed and the next job runs.
    """
    started = time.perf_counter()
    try:
        checked_folder(folder)
        asked = ask(composed(cfg, names, words))
        from fna.runner.loaded import load
        from fna.runner.run import contest
        from fna.runner.shown import finish

        result = contest(asked, load(asked), folder, started)
        finish(result, folder)
    except Exception as error:
        if folder.is_dir():
            lost = failed(cfg, names, folder, _line(error), round(time.perf_counter() - started, 2))
            # what was refused may be anything that YAML can say, a list of landmarks for one
            write_atomic(folder / "result.json", json.dumps(lost, indent=1, default=str).encode())
        _note_traceback(error, folder)
        _tell(error, in_sweep)
        return None
    unlogged = _log(asked, result, folder)
    if unlogged is not None:
        _tell(unlogged, in_sweep)
    if lines := fallen(result):
        count = len(result["contenders"])
        _tell(UserError(f"{len(lines)} of {count} contenders failed ({'; '.join(lines)}); the others stand: {folder}"), in_sweep)
    first = next(iter(result["metrics"].values()), None)
    return None if first is None else (first["variant"], result["cost"].get("speedup", {}).get("median", float("nan")))


def _log(asked: Asked, result: dict[str, Any], folder: Path) -> UserError | None:
    """Hand the result to the logger, now that all else is written: returns the error that it came to, if any."""
    try:
        if asked.logger is not None:
            asked.logger.log(result, OmegaConf.to_container(asked.cfg, resolve=True), folder)
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
