"""What Hydra and OmegaConf refuse, in a line that a user can mend."""

from __future__ import annotations

from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from fna.configs import broken_yaml
from fna.errors import UserError

REFUSALS = (UserError, HydraException, OmegaConfBaseException, YAMLError)


def one_line(error: Exception) -> str:
    """What is said of an error that a user can mend.

    Hydra's refusal of an override has its reason in the error below: the keys that there are, or the type.
    """
    cause = error.__cause__
    if isinstance(error, YAMLError):  # in a file that Hydra reads before we do
        said = f"{getattr(getattr(error, 'problem_mark', None), 'name', 'conf')}: {broken_yaml(error)}"
    elif not isinstance(error, ConfigCompositionException) or not isinstance(cause, OmegaConfBaseException):
        said = str(error)
    elif isinstance(cause, ConfigKeyError | ConfigAttributeError):
        place, _, key = str(cause.full_key).rpartition(".")
        keys = [str(key) for key in cause.parent_node or () if key != "_target_"]
        said = f"{place} has no key {key}; it has {', '.join(keys) or 'none of its own'}."
    else:
        override = str(error).removeprefix("Error merging override ")
        held = cause.parent_node.get(cause.key) if isinstance(cause.parent_node, DictConfig) else None
        reason, _, _ = str(cause).partition("\n")  # what follows names the key again, and types of OmegaConf's
        keys = [f"{cause.full_key}.{key!s}" for key in held] if isinstance(held, DictConfig) else []
        said = f"{override}: set {' or '.join(keys)}." if keys else f"{override}: {reason}"
    return " ".join(said.split())
