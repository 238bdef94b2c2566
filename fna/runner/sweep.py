"""A ``-m`` sweep as a whole: a folder of its own, one table and one page for its jobs, an exit status that tells of failures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fna.errors import UserError
from fna.records import unwritten
from fna.report.results import Run, load
from fna.runner.failures import keep_traceback, line, mendable
from fna.runner.result import fallen
from fna.values import counted

Stamps = dict[str, tuple[int, int]]  # name of a run folder -> inode and time of its result.json
_held: list[FileLock] = []  # of this process, until it ends; a callback itself travels to other processes and cannot hold one


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
    """What Hydra calls before the first job of a sweep and after the last one, in the process that was started."""

    def __init__(self) -> None:
        self.before: Stamps = {}

    @_leaves
    def on_multirun_start(self, config: DictConfig) -> None:
        """Refuse a sweep without a job, and a folder that belongs to another sweep."""
        folder, words = Path(config.hydra.sweep.dir), list(config.hydra.overrides.task)
        _refuse_no_job(words)
        _refuse_one_folder(config, words)
        _take(folder)
        _refuse_others(folder, words)
        self.before = _stamps(folder)

    @_leaves
    def on_multirun_end(self, config: DictConfig) -> None:
        """Count, then report; the results of earlier jobs in this folder are none of this sweep's."""
        from fna.report.__main__ import report

        folder = Path(config.hydra.sweep.dir)
        after = _stamps(folder)
        own = [run for run in (load(folder) if after else []) if self.before.get(run.name) != after.get(run.name)]
        problems = _problems(own)
        try:
            if own:
                report(folder, own)
        except Exception as raised:
            error = mendable(raised)
            keep_traceback(error, folder)
            problems.append(line(error))
        if problems:
            raise UserError("; ".join(problems))


def _problems(own: list[Run]) -> list[str]:
    """What keeps the sweep from being whole, in a sentence each."""
    failed = [run for run in own if not run.ok]
    unlogged = [run.result["unlogged"] for run in own if "unlogged" in run.result]
    unshown = [run.result["unshown"] for run in own if "unshown" in run.result]
    lost = [said for run in own for said in fallen(run.result)]
    told = [] if own else ["no job was run, so there is no result"]
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


def _refuse_no_job(words: list[str]) -> None:
    """Raise `UserError` for a word that stands for no value at all, such as a glob that nothing fits."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    for word, override in zip(words, parser.parse_overrides(words), strict=True):
        if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise UserError(f"no job: {word} stands for no value; give at least one.")


def _refuse_one_folder(config: DictConfig, words: list[str]) -> None:
    """Raise `UserError` where two jobs would write into one folder, each over the one before."""
    place = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    assert isinstance(place, dict)
    subdir = str(place["subdir"])
    if "job.num" in subdir:
        return
    folders = _folders(config, words) if "${" in subdir else [subdir, subdir]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(
            f"hydra.sweep.subdir={subdir}: a job would write over another one in {twice}; leave it out, for a folder each."
        )


def _folders(config: DictConfig, words: list[str]) -> list[str]:
    """The sub-folder of each job, as Hydra's basic sweeper starts them; none where a sweeper picks the values as it goes."""
    loader, whole = GlobalHydra.instance().config_loader(), HydraConfig.instance().cfg
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*params, *words])
    if not all(override.is_discrete_sweep() for override in overrides if override.is_sweep_override()):
        return []
    found = []
    try:
        for number, job in enumerate(BasicSweeper.split_arguments(overrides, None)[0]):
            own = loader.load_sweep_config(config, list(job))
            with open_dict(own):
                own.hydra.job.num, own.hydra.job.id = number, str(number)
            HydraConfig.instance().set_config(own)  # which ${hydra:...} looks in
            found.append(str(own.hydra.sweep.subdir))
    except (HydraException, OmegaConfBaseException):  # of a word that a job will be refused for
        return []
    finally:
        HydraConfig.instance().cfg = whole
    return found


def _take(folder: Path) -> None:
    """Hold the folder until this process ends. Raises `UserError` where another sweep does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".sweep.lock")
        lock.acquire(timeout=0)
        _held.append(lock)
    except Timeout:
        raise UserError(f"{folder}: another sweep is running in this folder; give another hydra.sweep.dir.") from None
    except NotImplementedError:  # a file system without locks
        return
    except OSError as error:
        raise unwritten(folder, error) from error


def _refuse_others(folder: Path, words: list[str]) -> None:
    """Raise `UserError` where the results of a sweep of other words lie; the same one goes on there, to retry what failed too."""
    earlier = _words(folder / "multirun.yaml")
    if earlier is None or not any(folder.rglob("result.json")):
        return
    told, asked = ([word for word in some if not word.startswith("retry_failed=")] for some in (earlier, words))
    if told != asked:
        raise UserError(f"{folder}: holds another sweep ({' '.join(earlier)}); give another hydra.sweep.dir, or remove it.")


def _words(noted: Path) -> list[str] | None:
    """The words of an earlier sweep, None where there was none or its file is damaged."""
    try:
        return [str(word) for word in OmegaConf.select(OmegaConf.load(noted), "hydra.overrides.task")]
    except (OSError, ValueError, TypeError, YAMLError, OmegaConfBaseException):
        return None
