"""What Hydra and OmegaConf refuse, in a line that a user can mend."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Sequence

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)
from yaml import YAMLError

from fna.configs import broken_yaml, choices, load_option
from fna.errors import UserError
from fna.runner.remedies import takes
from fna.schema import ACCEPTED

REFUSALS = (UserError, HydraException, OmegaConfBaseException, YAMLError)
INTERPOLATIONS = (InterpolationResolutionError, UnsupportedInterpolationType)


def _no_key(place: str, key: str, keys: Sequence[str]) -> str:
    """That an option lacks a key: which it has or, where it has none, which options of the group have that one."""
    if near := difflib.get_close_matches(key, keys, 1):
        return f"{place} has no key {key}; did you mean {place}.{near[0]}?"
    if keys:
        return f"{place} has no key {key}; it has {', '.join(keys)}."
    having = [name for name in choices(place) if key in load_option(place, name)]
    rest = f"; {place}={', '.join(having)} would have it" if having else ""
    return f"{place} has no key {key}: the {place} that is chosen has none of its own{rest}."


def one_line(error: Exception) -> str:
    """What is said of an error that a user can mend.

    Hydra's refusal of an override has its reason in the error below: the keys that there are, or the type.
    """
    cause = error.__cause__
    if isinstance(error, YAMLError):  # in a file that Hydra reads before we do
        said = f"{getattr(getattr(error, 'problem_mark', None), 'name', 'conf')}: {broken_yaml(error)}"
    elif isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        said = f"{group}={name}: no such {group}; there is {', '.join(error.options)}."
    elif isinstance(error, INTERPOLATIONS):
        said = _unresolved(error)
    elif not isinstance(error, ConfigCompositionException) or not isinstance(cause, OmegaConfBaseException):
        said = str(error)
    elif isinstance(cause, INTERPOLATIONS):
        said = _unresolved(cause)
    elif isinstance(cause, ConfigKeyError | ConfigAttributeError) and "/" in str(cause.full_key):
        said = f"{cause.full_key}: there is no such group; drop the word."
    elif isinstance(cause, ConfigKeyError | ConfigAttributeError):
        place, _, key = str(cause.full_key).rpartition(".")
        keys = [str(key) for key in cause.parent_node or () if key != "_target_"]
        said = _no_key(place, key, keys)
    else:
        override = str(error).removeprefix("Error merging override ")
        held = cause.parent_node.get(cause.key) if isinstance(cause.parent_node, DictConfig) else None
        reason, _, _ = str(cause).partition("\n")  # what follows names the key again, and types of OmegaConf's
        reason = "null is no value for it; drop the word." if "is not Optional" in reason else reason
        keys = [f"{cause.full_key}.{key!s}" for key in held] if isinstance(held, DictConfig) else []
        said = f"{override}: set {' or '.join(keys)}." if keys else f"{override}: {reason}"
    return " ".join(said.split())


def _unresolved(error: OmegaConfBaseException) -> str:
    """What is wrong with an interpolation (``${...}``), and in which key."""
    reason = str(error).partition("\n")[0]  # what follows names the key again, and types of OmegaConf's
    place = str(error.full_key or "")
    beside = dict(error.parent_node.items_ex(resolve=False)) if isinstance(error.parent_node, DictConfig) else {}
    text = str(beside.get(error.key, "${...}"))
    named = re.search(r"Interpolation key '(.+)' not found", reason)
    unset = re.search(r"Environment variable '(.+)' not found", reason)
    told = f"{place}={text}" if place else f"${{{named[1]}}}" if named else "the config"
    if "Recursive" in reason:
        return f"{told}: leads back to itself; give a value."
    if unset:
        return f"{told}: {unset[1]} is not set in the environment; set it, or give a value."
    if isinstance(error, UnsupportedInterpolationType):
        return f"{told}: there is no such thing to look up; oc.env:NAME is the environment's, landmarks that of a key."
    if isinstance(error, InterpolationKeyError) and named:
        value = os.environ.get(named[1])
        if value is not None and not place:  # OmegaConf does not say which key holds it
            return f"{told}: the config has no key {named[1]}; of the environment write '${{oc.env:{named[1]}}}' in its place"
        if value is not None and takes(ACCEPTED.get(place, str), value):
            meant = f"{place}={text.replace(named[1], f'oc.env:{named[1]}')}"
            return f"{told}: the config has no key {named[1]}; of the environment write {shlex.quote(meant)}"
        return f"{told}: the config has no key {named[1]}; give a value."
    return f"{told}: {reason.partition('raised while resolving interpolation: ')[2] or reason}; give a value."
