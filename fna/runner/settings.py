"""The composed config of a run, checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fna.configs import choices
from fna.errors import UserError
from fna.runner.chosen import followed, raw_values
from fna.runner.refusals import one_line
from fna.runner.remedies import kind_within, takes
from fna.schema import check_knobs, decoded
from fna.values import Count, held, shown


def check_resolves(cfg: DictConfig, names: Mapping[str, str]) -> None:
    """Refuse an interpolation (``${...}``) of what is not there, with the YAML file of the option where it stands in one."""
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        said = one_line(error)
        group, text = said.partition(".")[0], said.partition("=")[2].partition(": ")[0]
        file = choices(group).get(names.get(group, "")) if text else None
        there = file is not None and text in file.read_text(encoding="utf-8")
        raise UserError(f"{file}: {said}" if there else said) from error


def check_settings(cfg: DictConfig, names: Mapping[str, str]) -> None:
    """Refuse root values that no run could use, and keys of a group that would not say what runs.

    ``names``: the chosen option of each group. A key whose YAML follows a root knob (``rank: ${landmarks}``) is set by that knob
    alone: set by itself, the result's column of that knob would tell another setting than ran.
    """
    check_knobs(cfg)
    for group in (group for group in names if isinstance(cfg.get(group), DictConfig)):
        _decode(cfg[group], cfg[group], "")
    for key in ("depth", "patch_size"):  # of the model, which blocks and sizes are held against before it is built
        held(Count | None, OmegaConf.select(cfg, f"model.{key}"), f"model.{key}")
    for group, name in names.items():
        if group not in cfg or name not in choices(group):
            continue
        said = raw_values(group, name)
        if isinstance(cfg[group], DictConfig):
            _check_following(said, cfg[group], group)
            foreign = [str(key) for key in cfg[group] if not said and group != "experiment"]
            if foreign:
                raise UserError(f"{group}.{foreign[0]}: {group}={name} has no keys; choose another {group}.")


def _decode(whole: DictConfig, node: DictConfig, above: str) -> None:
    """Write numbers and the like that ``${oc.env:X}`` gives as texts as what they read as, where the key takes no text."""
    for key in [str(key) for key in node if not OmegaConf.is_missing(node, str(key))]:
        value = node[key]
        if isinstance(value, DictConfig) and not OmegaConf.is_interpolation(node, key):
            _decode(whole, value, f"{above}{key}.")
        elif isinstance(value, str) and OmegaConf.is_interpolation(node, key):
            raw = dict(node.items_ex(resolve=False))[key]
            kind = kind_within(whole, f"{above}{key}") if raw.startswith("${oc.env:") else None
            if kind is not None and not takes(kind, value) and takes(kind, decoded(value)):
                node[key] = decoded(value)


def by_knob(said: str, group: str, name: str) -> str:
    """What is said of a key that follows a root knob ("attn.rank=0.5: ..."), of that knob, which was typed instead."""
    for key, value in raw_values(group, name).items():
        if followed(value) and said.startswith(f"{group}.{key}."):
            return f"{followed(value)}{said.removeprefix(f'{group}.{key}')}"
        if said.startswith(f"{group}.{key}=") and isinstance(value, str) and value.startswith("${"):
            rest = said.removeprefix(f"{group}.{key}").removesuffix(".")
            return f"{value.strip('${}')}{rest}, which {group}={name} needs."
    return said


def _check_following(said: Mapping[str, Any], node: DictConfig, place: str) -> None:
    for key in [key for key in said if key in node]:
        raw = dict(node.items_ex(resolve=False))[key]
        if isinstance(said[key], str) and said[key].startswith("${") and raw != said[key]:
            knob = said[key].strip("${}")
            raise UserError(f"{place}.{key}={_told(raw)}: {place}.{key} follows {knob}; set {knob}=... instead.")
        if isinstance(said[key], dict) and isinstance(node[key], DictConfig):
            _check_following(said[key], node[key], f"{place}.{key}")


def _told(value: Any) -> str:
    return shown(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
