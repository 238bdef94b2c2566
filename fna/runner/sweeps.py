"""What a ``-m`` sweep is refused for before its first job: words that give no job, a folder that would hold two."""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fna.errors import UserError


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


def refuse_one_folder(config: DictConfig, words: list[str]) -> None:
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
    overrides = _overrides(config, words)
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


def _overrides(config: DictConfig, words: list[str]) -> list[Override]:
    """The words of a sweep after the parameters of its experiment."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides([*params, *words])


def refuse_others(folder: Path, words: list[str]) -> None:
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
