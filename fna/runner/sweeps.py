"""What is refused before a run or the first job of a sweep: words that give no job, a folder that would hold two of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fna.errors import UserError

NOTED = "multirun.yaml"  # by Hydra, in the folder of a sweep


def refuse_no_job(words: list[str]) -> None:
    """Raise `UserError` for a word that stands for no value at all, such as a glob that nothing fits."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    for word, override in zip(words, parser.parse_overrides(words), strict=True):
        if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise UserError(f"no job: {word} stands for no value; give at least one.")


NOTHING = "-m: no word has several values, as landmarks=16,32 has, so that this is a single run"


def sweeps_nothing(config: DictConfig, words: list[str]) -> bool:
    """Whether neither the words nor an experiment's parameters have several values."""
    return not any(override.is_sweep_override() for override in _overrides(config, words))


NUMBERED = re.compile(r"[^.\d$]*\$\{hydra[:.]job\.num\}[^.\d$]*")  # a sub-folder that no other job has, whatever the words


def refuse_one_folder(config: DictConfig, words: list[str]) -> None:
    """Raise `UserError` where two jobs would write into one folder, each over the one before, and where one would write outside
    that of the sweep, in which its report looks."""
    place = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    assert isinstance(place, dict)
    subdir = str(place["subdir"])
    if NUMBERED.fullmatch(subdir) and "${" not in str(place["dir"]).replace("${now:", ""):
        return
    found: set[Path] = set()
    whole = Path(os.path.abspath(config.hydra.sweep.dir))
    for folder in _folders(config, words, subdir):
        if whole not in folder.parents:
            raise UserError(
                f"hydra.sweep.subdir={subdir} hydra.sweep.dir={place['dir']}: a job would write into {folder}, which is no folder "
                "in that of the sweep; leave subdir out, for a folder each."
            )
        if folder in found:
            raise UserError(
                f"hydra.sweep.subdir={subdir}: a job would write over another one in {folder.relative_to(whole)}; leave it out, "
                "for a folder each."
            )
        found.add(folder)


def _folders(config: DictConfig, words: list[str], subdir: str) -> list[Path]:
    """The folder of each job, as Hydra's basic sweeper starts them. Raises `UserError` where a job has none.

    Where a sweeper picks the values as it goes: of two jobs, if no value decides, else none.
    """
    loader, whole = GlobalHydra.instance().config_loader(), HydraConfig.instance().cfg
    overrides = _overrides(config, words)
    plain = [override for override in overrides if not override.is_sweep_override()]
    jobs = BasicSweeper.split_arguments(overrides if all(map(_is_listed, overrides)) else plain, None)[0]
    if not all(map(_is_listed, overrides)):
        jobs = [] if "${" in subdir else [*jobs] * 2
    found = []
    try:
        for number, job in enumerate(jobs):
            try:
                own = loader.load_sweep_config(config, list(job))
            except (HydraException, OmegaConfBaseException):
                continue  # of a word that this job will be refused for
            with open_dict(own):
                own.hydra.job.num, own.hydra.job.id = number, str(number)
            HydraConfig.instance().set_config(own)  # which ${hydra:...} looks in
            found.append(Path(os.path.abspath(Path(str(own.hydra.sweep.dir), str(own.hydra.sweep.subdir)))))
    except OmegaConfBaseException as error:
        raise UserError(
            f"hydra.sweep.subdir={subdir}: cannot be filled in for {' '.join(job)}; name a value that every job has."
        ) from error
    finally:
        HydraConfig.instance().cfg = whole
    return found


def _is_listed(override: Override) -> bool:
    """Whether a word's values are known before the sweep."""
    return override.is_discrete_sweep() or not override.is_sweep_override()


def _overrides(config: DictConfig, words: list[str]) -> list[Override]:
    """The words of a sweep after the parameters of its experiment."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides([*params, *words])


def refuse_chdir(config: DictConfig) -> None:
    """Raise `UserError` for a job that would run in another folder than the one where its words were typed."""
    if OmegaConf.select(config, "hydra.job.chdir"):
        raise UserError(
            "hydra.job.chdir=true: paths such as dataset.root and the folder of finished rows would be looked for in the folder of "
            "the run; leave it out (hydra.run.dir=DIR alone puts a run elsewhere)."
        )


def refuse_of_sweep(folder: Path) -> None:
    """Raise `UserError` where a single run would write over a sweep's report or over the result of one of its jobs."""
    if (folder / NOTED).is_file():
        raise UserError(f"{folder}: holds a sweep; give another hydra.run.dir.")
    job_like = folder.name.isdigit() and (folder.parent / NOTED).is_file()  # also of a job that is yet to come
    if job_like or _noted(folder / ".hydra" / "hydra.yaml", "hydra.mode") == RunMode.MULTIRUN.name:
        raise UserError(f"{folder}: is the folder of a job of a sweep; give another hydra.run.dir.")


def refuse_others(folder: Path, words: list[str]) -> None:
    """Raise `UserError` where the results of a run or of a sweep of other words lie.

    The same sweep goes on there, to retry what failed too.
    """
    if (folder / "result.json").is_file():
        raise UserError(f"{folder}: holds a single run; give another hydra.sweep.dir, or remove it.")
    earlier = _noted(folder / NOTED, "hydra.overrides.task")
    if not OmegaConf.is_list(earlier) or not any(folder.rglob("result.json")):
        return
    earlier = [str(word) for word in earlier]
    told, asked = ([word for word in some if not word.startswith("retry_failed=")] for some in (earlier, words))
    if told != asked:
        raise UserError(f"{folder}: holds another sweep ({' '.join(earlier)}); give another hydra.sweep.dir, or remove it.")


def _noted(file: Path, key: str) -> Any:
    """What Hydra noted of an earlier run or sweep, None where there was none or its file is damaged."""
    try:
        return OmegaConf.select(OmegaConf.load(file), key)
    except (OSError, ValueError, TypeError, YAMLError, OmegaConfBaseException):
        return None
