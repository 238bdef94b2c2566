"""The command line around Hydra: help, errors as one line, exit statuses."""

from __future__ import annotations

import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig

import fna
from fna.commands import check_here
from fna.configs import CONF, program, search_path
from fna.errors import UserError, not_installed
from fna.folders import check_cache
from fna.interrupts import INTERRUPTED
from fna.records import NO_ROOM
from fna.runner.env import wait_briefly
from fna.runner.failures import line, mendable
from fna.runner.files import held
from fna.runner.help import help_text
from fna.runner.refusals import REFUSALS, one_line
from fna.runner.sweep import Stopped, whole_or_told
from fna.runner.typed import as_typed, of_roots
from fna.runner.words import check_words
from fna.schema import register
from fna.streams import never_fail

_raised: list[Exception] = []


def main() -> None:
    """Run what ``sys.argv`` asks for; exit 0 only when every job's result is whole."""
    never_fail()
    wait_briefly()
    warnings.filterwarnings("ignore", ".*decompression bomb")  # Pillow's of large pictures, which a line of ours tells
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we print one line
    register()
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text())
            return
        if "--version" in sys.argv[1:]:
            print(f"fna {fna.__version__}, hydra {hydra.__version__}")
            return
        check_here()
        check_cache()
        sys.argv[1:] = checked(sys.argv[1:])
        with whole_or_told():
            _job()
        if _raised:
            raise _raised[0]
    except REFUSALS as error:
        fail(one_line(error))
    except OSError as error:
        if not _raised:  # Hydra's own notes, which name no file where the disk is full
            error.filename = error.filename or held()
        if error.errno in NO_ROOM or isinstance(error, PermissionError):
            fail(line(mendable(error)))
        if _raised:  # out of a job, where it may be of reading or of the network as well
            fail(str(error) or type(error).__name__)
        if error.filename is None:
            fail(f"{error.strerror or error}; neither a file nor a folder was named with it, look at those of the command.")
        fail(f"{error.filename}: cannot write there ({error.strerror}); choose another folder.")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fna"):  # a bug, not a package that was left out
            raise
        fail(str(not_installed(program(), error)))
    except KeyboardInterrupt as stop:
        print(f"interrupted: finished rows are kept, the same command goes on from them{stop}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def checked(argv: Sequence[str]) -> list[str]:
    """What Hydra is given: flags first, then the words, in whatever order they were typed."""
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    known, words = parser.parse_known_intermixed_args(list(argv)) if "--experimental-rerun" not in argv else (None, [])
    if known is None:
        return list(argv)
    _check_flags(known)
    if words:
        raise UserError(f"{words[0]}: no such flag; knobs are written without dashes, landmarks=64, for one.")
    overrides = list(known.overrides)
    flags = list(argv)
    for word in overrides:
        flags.remove(word)
    extra = [Path(known.config_dir).resolve()] if known.config_dir else []
    overrides = of_roots(overrides)
    if not (known.config_name or known.config_path):
        check_words(overrides, sweep=known.multirun, extra=extra)
        overrides = as_typed(overrides, extra)
    folders = [f"file://{folder.resolve()}" for folder in search_path() if folder != CONF]
    path = [f"hydra.searchpath=[{','.join(QuotedString(name, Quote.single).with_quotes() for name in folders)}]"] if folders else []
    return [*flags, *overrides, *path]


def _check_flags(known: Namespace) -> None:
    """Refuse flags that Hydra would end in a traceback of, or pass over in silence."""
    ways = [
        f"--{name.replace('_', '-')}" for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(known, name)
    ]
    if len(ways) > 1:
        raise UserError(f"{' and '.join(ways)}: each asks for something else; keep one.")
    if known.config_dir and not Path(known.config_dir).is_dir():
        raise UserError(f"--config-dir={known.config_dir}: no such folder; name one laid out like conf/.")
    if not known.config_name or known.config_path:
        return
    places = [Path(known.config_dir or CONF), *search_path()]
    if not any((place / f"{known.config_name.removesuffix('.yaml')}.yaml").is_file() for place in places):
        raise UserError(
            f"--config-name={known.config_name}: no such config; leave it out: an option of your own is a file such as "
            "attn/mine.yaml in a folder that FNA_CONF_DIR names, and attn=mine takes it."
        )


def _refuse_flag(message: str) -> NoReturn:
    raise UserError(f"{message}; {program()} --help lists what there is.")


def fail(said: str) -> NoReturn:
    """Print what is wrong as one line and exit 1."""
    print("error: " + " ".join(said.split()), file=sys.stderr)
    sys.exit(1)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> Any:
    settings = HydraConfig.get()
    names = {group: str(choice) for group, choice in settings.runtime.choices.items() if "/" not in group}
    try:
        from fna.runner.job import run

        words = [*settings.overrides.task, *(word for word in settings.overrides.hydra if word.startswith("hydra.searchpath"))]
        return run(cfg, names, Path(settings.runtime.output_dir), words=words, in_sweep=settings.mode == RunMode.MULTIRUN)
    except Exception as error:
        if settings.mode == RunMode.MULTIRUN:
            raise Stopped(line(mendable(error))) from None  # a sweep cannot count it: not even a failed result could be written
        _raised.append(error)  # raised once Hydra is done: it would print a line of its own above ours
        return None
    except KeyboardInterrupt:
        if settings.mode != RunMode.MULTIRUN:
            raise
        raise KeyboardInterrupt(f"; python -m fna.report {settings.sweep.dir} shows the jobs that are done") from None
