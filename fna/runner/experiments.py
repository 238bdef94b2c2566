"""What an experiment's YAML says of the root knobs and groups, held against them before Hydra composes it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from fna.configs import load_option
from fna.errors import UserError
from fna.runner.chosen import values
from fna.runner.hydras import MODES
from fna.runner.remedies import Known, takes
from fna.schema import ACCEPTED, Knobs
from fna.spelling import nearest
from fna.values import held, shown


def check_experiment(name: str, known: Known, extra: Sequence[Path]) -> None:
    """Raise `UserError` for a key that no run has, and for a value that a root knob does not take."""
    file = known["experiment"][name]
    said = OmegaConf.to_container(load_option("experiment", name, extra), resolve=False)
    assert isinstance(said, dict)
    for key, value in ((str(key), value) for key, value in said.items()):
        if key in known:
            _check_group(file, key, value)
        elif key != "hydra":
            _check_root(file, key, value)
    hydras = said.get("hydra")
    mode = hydras.get("mode") if isinstance(hydras, dict) else None
    if mode not in (None, *MODES):
        raise UserError(f"{file}: hydra.mode: {shown(mode)}: write {' or '.join(MODES)}, the latter for a sweep without -m")
    sweeper = hydras.get("sweeper") if isinstance(hydras, dict) else None
    params = sweeper.get("params") if isinstance(sweeper, dict) else None
    for key, value in params.items() if isinstance(params, dict) else ():
        _check_name(file, str(key).split(".")[0], [*known, *Knobs.__dataclass_fields__])
        _check_swept(file, f"{key}={value}", known)


def _check_group(file: Path, group: str, value: Any) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{file}: {group}: {shown(value)} chooses no option here; write under defaults: - override /{group}: NAME")


def _check_swept(file: Path, word: str, known: Known) -> None:
    """Refuse what a sweep of the experiment says of a group or a root knob that has no such value."""
    try:
        override = OverridesParser.create().parse_override(word)
        swept = list(values(override))
    except (HydraException, ValueError) as error:
        raise UserError(f"{file}: hydra.sweeper.params: {word}: cannot be read; write several values as 16,32.") from error
    key = override.key_or_group
    for value in swept:
        if isinstance(value, list) and key in ACCEPTED and not takes(ACCEPTED[key], value):
            raise UserError(f"{file}: {key}={shown(value)}: is one value to a sweep; write several as {key}: {shown(value)[1:-1]}")
        if key in known and value not in known[key]:
            raise UserError(
                f"{file}: {key}={shown(value)}: no such {key}; {nearest(str(value), known[key])}there is {', '.join(known[key])}."
            )
        if key in ACCEPTED and not (isinstance(value, str) and "${" in value):
            held(ACCEPTED[key], value, f"{file}: {key}")


def _check_root(file: Path, key: str, value: Any) -> None:
    _check_name(file, key, list(Knobs.__dataclass_fields__))
    below = [name for name in ACCEPTED if name.startswith(f"{key}.")]
    if below and not isinstance(value, Mapping):
        raise UserError(f"{file}: {key}: {shown(value)}: set {' or '.join(below)} instead, each on a line below {key}.")
    for name, one in ((f"{key}.{rest}", one) for rest, one in value.items()) if below else [(key, value)]:
        _check_name(file, name, [*ACCEPTED])
        if not (isinstance(one, str) and "${" in one):
            held(ACCEPTED[name], one, f"{file}: {name}")


def _check_name(file: Path, key: str, names: Iterable[str]) -> None:
    names = list(names)
    root, _, rest = key.partition(".")
    if rest and root in names:
        raise UserError(f"{file}: {key}: YAML has no points in keys; write {root}: and below it, indented, {rest}: ...")
    if key not in names:
        near = difflib.get_close_matches(key, names, 1)
        raise UserError(f"{file}: {key}: no such knob; {f'did you mean {near[0]}?' if near else 'there is ' + ', '.join(names)}")
