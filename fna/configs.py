"""Reading ``conf/``: the one place that turns a config node into an object, and the search path of its folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fna.errors import UserError, not_installed

_HOME = Path(__file__).resolve().parent
# fna/conf: a folder of its own in a wheel, in a checkout a link to conf/ at the top, which is taken where links are not to be had
CONF = (_HOME if (_HOME / "conf").is_dir() else _HOME.parent).joinpath("conf").resolve()


def program() -> str:
    """The command as it was typed, for messages that say what to type next: python run.py, fna or python -m fna."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "fna":
        return "python -m fna"
    in_checkout = called.stem != "fna" and (CONF.parent / "run.py").is_file()
    return "python run.py" if in_checkout else "fna"


def search_path(extra: Sequence[Path] = ()) -> list[Path]:
    """Folders laid out like ``conf/``: ``extra`` first, then FNA_CONF_DIR (separated as PATH is), then fna's own."""
    own = [Path(part) for part in os.environ.get("FNA_CONF_DIR", "").split(os.pathsep) if part]
    return [*extra, *own, CONF]


def choices(group: str, extra: Sequence[Path] = ()) -> dict[str, Path]:
    """Every option of a config group: name -> YAML file, sorted by name; an earlier folder hides a later one."""
    found: dict[str, Path] = {}
    for folder in search_path(extra):
        for file in sorted((folder / group).glob("*.yaml")):
            found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def summary(file: Path) -> str:
    """The first comment of a YAML file: the sentence that ``--help`` shows for it."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            return line[2:].strip()
    return ""


def load_option(group: str, name: str, extra: Sequence[Path] = ()) -> DictConfig:
    """The config of one option, unresolved, with the siblings that its defaults list names merged in that list's order.

    Overrides of other groups in that list are Hydra's business and left out. Raises `UserError` naming the options that there are.
    """
    known = choices(group, extra)
    if name not in known:
        raise UserError(f"{group}={name}: no such {group}; there is {', '.join(known)}.")
    node = OmegaConf.load(known[name])
    assert isinstance(node, DictConfig)
    siblings = [entry for entry in node.pop("defaults", []) if isinstance(entry, str)]
    parts = [node if entry == "_self_" else load_option(group, entry, extra) for entry in siblings]
    merged = OmegaConf.merge(*parts, *([] if "_self_" in siblings else [node]))
    assert isinstance(merged, DictConfig)
    return merged


def instantiate(node: Any) -> Any:
    """Build what ``node._target_`` names, with plain lists and dicts as arguments.

    Raises `UserError` where the constructor refuses a value (``ValueError``) or a key (``TypeError``), or is not to be found.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    _check_moved(str(node.get("_target_") or ""))
    try:
        return hydra_instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ValueError | TypeError):
            raise UserError(f"{node.get('_target_')}: {cause}") from error
        # Hydra puts an ImportError of its own around whatever importing came to; a bug in the module keeps its traceback
        if isinstance(cause, ImportError) and isinstance(reason := cause.__cause__, ImportError | AttributeError | SyntaxError):
            target = str(node.get("_target_"))
            if isinstance(reason, ModuleNotFoundError) and _top(reason.name) not in ("fna", _top(target)):
                raise not_installed(target, reason) from error
            raise UserError(f"{target}: cannot be imported ({reason}); its folder has to be on PYTHONPATH.") from error
        raise


def _top(module: str | None) -> str:
    return str(module).partition(".")[0]


def _check_moved(target: str) -> None:
    """Raise `UserError` for a path of before 0.1.0's ``fna.attention`` became ``fna.ops``."""
    if target.startswith("fna.attention."):
        raise UserError(f"_target_: {target} has moved; write fna.ops.{target.removeprefix('fna.attention.')}.")


def build_attention(
    name: str,
    *,
    landmarks: int | float | str = 64,
    sampler: str = "fps",
    seed: int = 0,
    search: Sequence[Path] = (),
    **options: Any,
) -> Any:
    """The attention that ``attn=name`` means on the command line, for library use.

    ``options`` override keys of its YAML file (``inverse="exact"``). Raises `UserError` for unknown names and keys.
    """
    node = load_option("attn", name, search)
    unknown = sorted(set(options) - set(node))
    if unknown:
        known = sorted(str(key) for key in node if key != "_target_")
        raise UserError(f"attn={name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}.")
    groups = {"sampler": load_option("sampler", sampler, search), "attn": OmegaConf.merge(node, options)}
    root = OmegaConf.create({"landmarks": landmarks, "seed": seed, **groups})
    try:
        OmegaConf.resolve(root)
    except OmegaConfBaseException as error:
        raise UserError(f"attn={name}: {error}") from error
    return instantiate(root.attn)
