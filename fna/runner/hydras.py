"""Words that are Hydra's own: ``hydra.run.dir=FOLDER``, ``hydra/launcher=joblib``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hydra.conf import HydraConf
from hydra.core.override_parser.types import Override, OverrideType

from fna.errors import UserError
from fna.runner.chosen import values
from fna.schema import Knobs

FILLED_IN = ("hydra.overrides", "hydra.runtime", "hydra.hydra_help", "hydra.help", "hydra.job.override_dirname", "hydra.job.config")
RESOLVERS = ("oc.env:", "now:", "hydra:")
MODES = ("RUN", "MULTIRUN")


def is_hydras(override: Override) -> bool:
    """Whether a word is Hydra's and no knob of ours."""
    return override.key_or_group.split("/")[0].split(".")[0] == "hydra"


def check_hydras(override: Override) -> None:
    """Raise `UserError` for what Hydra would end in a traceback of, or pass over with a warning."""
    key, word = override.key_or_group, override.input_line
    if override.type == OverrideType.DEL:
        raise UserError(f"{word}: Hydra cannot do without; drop the word.")
    if key.startswith("hydra.") and key.split(".")[1] not in HydraConf.__dataclass_fields__:
        raise UserError(f"{word}: Hydra has no such setting; drop the word.")
    if key in ("hydra", "hydra.launcher", "hydra.sweeper"):
        raise UserError(f"{word}: Hydra's settings are set one by one; write hydra.job.name=mine, for one.")
    if any(f"{key}.".startswith(f"{place}.") for place in FILLED_IN):
        raise UserError(f"{word}: Hydra fills that in itself; drop the word.")
    if key.startswith("hydra.callbacks"):
        raise UserError(f"{word}: a sweep is counted and shown by them; drop the word.")
    if key == "hydra.searchpath":
        raise UserError(f"{word}: name a folder laid out like conf/ with --config-dir=FOLDER, or in FNA_CONF_DIR.")
    if key.endswith("._target_"):
        raise UserError(f"{word}: is Hydra's own business; drop the word.")
    if key != "hydra.output_subdir" and any(value in (None, "") for value in values(override)):
        raise UserError(f"{word}: is no value for it; drop the word.")
    if "/" in key and (override.is_add() or override.is_force_add()):
        raise UserError(f"{word}: is there already; write {str(word).lstrip('+')}")
    _check_looked_up(override)
    if "/" in key and not all(isinstance(value, str) and value for value in values(override)):
        raise UserError(f"{word}: names no option; drop the word.")
    if key == "hydra.mode" and not all(str(value).upper() in MODES for value in values(override)):
        raise UserError(f"{word}: give {' or '.join(MODES)}, the latter being what -m says.")
    if key == "hydra.verbose" and not all(map(_names_loggers, values(override))):
        raise UserError(f"{word}: give true or false, or the names of modules whose loggers are to say all, such as [fna,timm].")


def check_place(overrides: Sequence[Override], sweep: bool) -> None:
    """Raise `UserError` for the folder of a run beside a sweep, or that of a sweep beside a run, which Hydra passes over."""
    own, other, told = ("hydra.sweep.dir", "hydra.run.dir", "a sweep") if sweep else ("hydra.run.dir", "hydra.sweep.dir", "a run")
    given = {override.key_or_group: str(override.input_line) for override in overrides}
    if other in given and own not in given:
        raise UserError(f"{given[other]}: the folder of {told} is {own}; write {own}={given[other].partition('=')[2]}")


def _check_looked_up(override: Override) -> None:
    """Refuse ``${...}`` of what neither the config nor Hydra's settings hold, which Hydra says of no word."""
    for value in filter(lambda value: isinstance(value, str), values(override)):
        for sign, name in re.findall(r"\$\{([^\s:{}]+:)?([^:{}$]*)\}", value):
            root = name.partition(".")[0]
            if name == override.key_or_group:
                raise UserError(f"{override.input_line}: leads back to itself; give a value.")
            if not sign and root != "hydra" and root not in Knobs.__dataclass_fields__:
                raise UserError(f"{override.input_line}: the config has no key {name}; give a value.")
            if sign and sign not in RESOLVERS:
                raise UserError(
                    f"{override.input_line}: there is no such thing to look up; {' '.join(RESOLVERS)} begin what there is."
                )


def _names_loggers(value: Any) -> bool:
    """Whether it says how much is logged: yes or no, or modules that can be found."""
    if isinstance(value, bool):
        return True
    names = value if isinstance(value, list) else [value]
    plain = [name for name in names if isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name)]
    return len(plain) == len(names) > 0 and all(find_spec(name.partition(".")[0]) for name in plain)
