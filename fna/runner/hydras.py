"""Words that are Hydra's own: ``hydra.run.dir=FOLDER``, ``hydra/launcher=joblib``."""

from __future__ import annotations

from hydra.conf import HydraConf
from hydra.core.override_parser.types import Override, OverrideType

from fna.errors import UserError
from fna.runner.chosen import values


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
    if key == "hydra":
        raise UserError(f"{word}: Hydra's settings are set one by one; write hydra.job.name=mine, for one.")
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
    if "/" in key and not all(isinstance(value, str) and value for value in values(override)):
        raise UserError(f"{word}: names no option; drop the word.")
