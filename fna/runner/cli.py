"""The command line around Hydra: help, errors as one line, exit statuses."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from fna.configs import CONF, choices, program, search_path
from fna.errors import UserError, not_installed
from fna.runner.help import help_text
from fna.schema import Knobs, register

INTERRUPTED = 130
_refused: list[UserError] = []


def main() -> None:
    """Run what ``sys.argv`` asks for; exit 0 only when every job's result is whole."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text())
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we print one line
    register()
    try:
        _check_words(sys.argv[1:])
        _add_search_path()
        _job()
        if _refused:
            raise _refused[0]
    except (UserError, HydraException, OmegaConfBaseException) as error:
        fail(_explained(error))
    except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
        fail(UserError(f"{error.filename}: cannot write there ({error.strerror}); choose another folder."))
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fna"):  # a bug, not a package that was left out
            raise
        fail(not_installed(program(), error))
    except KeyboardInterrupt as stop:
        print(f"interrupted: finished rows are kept, the same command goes on from them{stop}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _explained(error: Exception) -> Exception:
    """Hydra's refusal of an override with its reason, which lies in the error below: the keys that there are, or the type."""
    cause = error.__cause__
    if not isinstance(error, ConfigCompositionException) or not isinstance(cause, OmegaConfBaseException):
        return error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        place, _, key = str(cause.full_key).rpartition(".")
        keys = [str(key) for key in cause.parent_node or () if key != "_target_"]
        return UserError(f"{place} has no key {key}; it has {', '.join(keys) or 'none of its own'}.")
    override = str(error).removeprefix("Error merging override ")
    held = cause.parent_node.get(cause.key) if isinstance(cause.parent_node, DictConfig) else None
    if isinstance(held, DictConfig):
        return UserError(f"{override}: set {' or '.join(f'{cause.full_key}.{key!s}' for key in held)}.")
    reason, _, _ = str(cause).partition("\n")  # what follows names the key again, and types of OmegaConf's
    return UserError(f"{override}: {reason}")


def fail(error: BaseException) -> None:
    """Print an error as one line and exit 1."""
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    sys.exit(1)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> Any:
    from fna.runner.job import run

    settings = HydraConfig.get()
    names = {group: str(choice) for group, choice in settings.runtime.choices.items() if "/" not in group}
    try:
        return run(cfg, names, Path(settings.runtime.output_dir), in_sweep=settings.mode == RunMode.MULTIRUN)
    except UserError as error:
        _refused.append(error)  # raised once Hydra is done: it would print a line of its own above ours
        return None
    except KeyboardInterrupt:
        if settings.mode != RunMode.MULTIRUN:
            raise
        raise KeyboardInterrupt(f"; python -m fna.report {settings.sweep.dir} shows the jobs that are done") from None


def _add_search_path() -> None:
    extra = [folder.resolve() for folder in search_path() if folder != CONF]
    if extra:
        sys.argv.append(f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in extra)}]")


def _check_words(words: list[str]) -> None:
    """Refuse an unknown option of a group or an unknown knob before Hydra composes, with what is there instead.

    Hydra's own messages run over many lines. What it treats specially (flags, ``+key``, ``~key``, ``hydra.*``) is left to it.
    """
    known = {name: set(choices(name)) for name in _groups()}
    for word in words:
        knob, equals, value = word.partition("=")
        if not equals or word.startswith(("-", "+", "~", "hydra.", "hydra/")):
            continue
        if knob in known:
            _check_choices(knob, value, known[knob])
        elif knob.split(".")[0].split("@")[0] not in Knobs.__dataclass_fields__:
            near = difflib.get_close_matches(knob, [*Knobs.__dataclass_fields__], 1)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(Knobs.__dataclass_fields__)}."
            raise UserError(f"{knob}: no such knob; {hint}")


def _check_choices(group: str, value: str, known: set[str]) -> None:
    if value.startswith(("glob(", "choice(", "[")) or value == "null":
        return
    for option in value.split(","):
        if option not in known:
            near = difflib.get_close_matches(option, sorted(known), 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"{group}={option}: no such {group}; {hint}there is {', '.join(sorted(known))}.")


def _groups() -> list[str]:
    folders = (folder for root in search_path() if root.is_dir() for folder in root.iterdir() if folder.is_dir())
    return sorted({folder.name for folder in folders} - {"hydra"})
