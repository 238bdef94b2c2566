"""A ``-m`` sweep as a whole: a folder of its own, one table and one page for its jobs, an exit status that tells of failures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from fna.errors import UserError
from fna.records import unwritten
from fna.report.results import Run, load
from fna.runner.failures import keep_traceback, line, mendable
from fna.runner.files import take
from fna.runner.result import fallen
from fna.runner.sweeps import (
    NOTHING,
    refuse_chdir,
    refuse_no_job,
    refuse_of_sweep,
    refuse_one_folder,
    refuse_others,
    sweeps_nothing,
)
from fna.values import counted

Stamps = dict[str, tuple[int, int]]  # name of a run folder -> inode and time of its result.json
_under_way: list[tuple[SweepReport, Path]] = []  # of this process: at most one, with its folder


class Stopped(SystemExit):
    """A job came to nothing that a sweep could count. Not an `Exception`: of those Hydra prints a line of its own."""


@contextmanager
def whole_or_told() -> Iterator[None]:
    """Of a sweep that stops half-way, on a full disk for one, show the jobs that are done; then say why, with exit status 1."""
    try:
        yield
    except (Exception, Stopped) as raised:
        if not _under_way:
            raise
        callback, folder = _under_way.pop()
        why = str(raised) if isinstance(raised, Stopped) else line(_placed(raised, folder))
        print(f"error: {_in_one([why, *callback.report(folder)])}", file=sys.stderr)
        raise SystemExit(1) from None


def _in_one(sentences: Sequence[str]) -> str:
    return "; ".join(sentence.removesuffix(".") for sentence in sentences)


def _placed(error: Exception, folder: Path) -> Exception:
    """The error in a user's words; what Hydra could not note in the folder of a job names none."""
    if isinstance(error, OSError) and error.filename is None:
        return unwritten(folder, error)
    keep_traceback(mendable(error), folder)
    return mendable(error)


def _leaves(step: Callable[..., None]) -> Callable[..., None]:
    """A step of a callback whose errors are one line and exit status 1: Hydra makes a warning of them, and exits 0."""

    @wraps(step)
    def watched(self: SweepReport, config: DictConfig, **kwargs: Any) -> None:
        try:
            step(self, config)
        except Exception as raised:
            error = mendable(raised)
            keep_traceback(error, Path(config.hydra.sweep.dir))
            print(f"error: {line(error)}", file=sys.stderr)
            raise SystemExit(1) from None

    return watched


class SweepReport(Callback):
    """What Hydra calls before a run, before the first job of a sweep and after the last one, in the process that was started."""

    def __init__(self) -> None:
        self.before: Stamps = {}

    @_leaves
    def on_run_start(self, config: DictConfig) -> None:
        """Refuse the folder of a sweep, and of a run that is under way, before Hydra notes anything there."""
        folder = Path(config.hydra.run.dir)
        refuse_chdir(config)
        refuse_of_sweep(folder)
        take(folder, "hydra.run.dir")

    @_leaves
    def on_multirun_start(self, config: DictConfig) -> None:
        """Refuse a sweep without a job, and a folder that belongs to another sweep."""
        folder, words = Path(config.hydra.sweep.dir), list(config.hydra.overrides.task)
        refuse_chdir(config)
        refuse_no_job(words)
        refuse_one_folder(config, words)
        take(folder, "hydra.sweep.dir")
        refuse_others(folder, words)
        self.before = _stamps(folder)
        _under_way.append((self, folder))
        if sweeps_nothing(config, words):
            from fna.progress import say  # rich: whatever is missing is to be told by the job, in one line

            say(NOTHING)

    @_leaves
    def on_multirun_end(self, config: DictConfig) -> None:
        """Count, then report."""
        _under_way.clear()
        folder = Path(config.hydra.sweep.dir)
        if not self.own(folder):
            raise UserError("no job was run, so there is no result")
        if problems := self.report(folder):
            raise UserError(_in_one(problems))

    def own(self, folder: Path) -> list[Run]:
        """The runs of this sweep; the results of earlier jobs in its folder are none of them."""
        after = _stamps(folder)
        return [run for run in (load(folder) if after else []) if self.before.get(run.name) != after.get(run.name)]

    def report(self, folder: Path) -> list[str]:
        """Write and print the report of what is done; what keeps the sweep from being whole, in a sentence each."""
        from fna.report.__main__ import report, report_shown

        own = self.own(folder)
        problems = _problems(own)
        try:
            if len(own) == 1 and own[0].ok and "unshown" not in own[0].result:
                report_shown(folder, own)
            elif own:
                report(folder, own)
        except Exception as raised:
            error = mendable(raised)
            keep_traceback(error, folder)
            problems.append(line(error))
        return problems


def _problems(own: list[Run]) -> list[str]:
    """What keeps the sweep from being whole, in a sentence each."""
    failed = [run for run in own if not run.ok]
    unlogged = [run.result["unlogged"] for run in own if "unlogged" in run.result]
    unshown = [run.result["unshown"] for run in own if "unshown" in run.result]
    lost = [said for run in own for said in fallen(run.result)]
    told = []
    if failed:
        told.append(f"{len(failed)} of {len(own)} jobs failed; the table says which and why")
    if lost:
        told.append(f"{counted(len(lost), 'contender')} failed: {lost[0]}")
    if unshown:
        told.append(f"{len(unshown)} of {len(own)} results have no page: {unshown[0]}")
    if unlogged:
        told.append(f"{len(unlogged)} of {len(own)} results were not logged: {unlogged[0]}")
    return told


def _stamps(folder: Path) -> Stamps:
    """Every result.json as it is now: one that is written again is another file."""
    found = {file.parent: file.stat() for file in folder.rglob("result.json")}
    return {place.relative_to(folder).as_posix(): (stat.st_ino, stat.st_mtime_ns) for place, stat in found.items()}
