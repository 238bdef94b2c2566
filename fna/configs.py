"""``conf/`` and what it builds: `fna.options` finds and reads the YAML files, and here a node of theirs becomes an object."""

from __future__ import annotations

import inspect
import traceback
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from enum import Enum
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any, cast, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fna.constructors import options_of
from fna.errors import NoOption, UserError, not_installed
from fna.options import CONF, broken_yaml, check_read, choices, load_option, origin, program, search_path, stated, summary
from fna.spelling import nearest
from fna.values import held, made_text, plain, shown

__all__ = [
    "CONF",
    "MEMBERS",
    "broken_yaml",
    "build_attention",
    "choices",
    "instantiate",
    "kinds",
    "load_option",
    "program",
    "search_path",
    "summary",
]


def instantiate(node: Any) -> Any:
    """Build what ``node._target_`` names, with plain lists and dicts as arguments.

    Every value is held against the constructor's annotations first (`fna.values`), nested ones too; ``node`` then holds them as
    they were understood, so that what is recorded is what runs. Raises `UserError` for a target that is not to be found or makes
    another kind of object, and for keys and values that it does not take.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    node = node if isinstance(node, DictConfig) else OmegaConf.create(node or {})
    place = str(node._get_full_key(None) or "")
    try:
        values = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        target = str(dict(node.items_ex(resolve=False)).get("_target_", ""))
        reason, _, _ = str(error).partition("\n")  # what follows are types of OmegaConf's
        raise UserError(f"{origin(target, place)}{getattr(error, 'full_key', None) or place}: {reason}; give a value.") from error
    typed = _typed(values, place)
    target = str(typed["_target_"])
    _write_back(node, typed)
    try:
        made = hydra_instantiate(typed, _convert_="all")
    except SystemExit as error:
        raise UserError(f"{origin(target, place)}{target}: ends the program; name a class that builds a {place}.") from error
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ValueError) or (isinstance(cause, TypeError) and _top(target) == "fna"):
            raise UserError(f"{_foreign(target, place)}{in_place(str(cause), typed, place or target)}") from error
        if cause is None or _top(target) == "fna":  # a bug of ours
            raise
        raise UserError(f"{origin(target, place)}{target}: cannot be made ({_blamed(cause)}); mend that.") from error
    _check_made(made, place, target)
    return made


def kinds(target: str) -> Mapping[str, Any]:
    """The type of each key that a class of that dotted name takes. `UserError` where there is none of that name."""
    return options_of(_located(target, "")).kinds


def _typed(values: Any, place: str) -> dict[str, Any]:
    """``values`` of a node, held against what its target takes; `UserError` names the key by its ``place``."""
    target = (values.get("_target_") if isinstance(values, dict) else None) or ""
    if not target:
        raise UserError(f"{place}: names no _target_, the class to build; give it one, or choose {_listed(place)}.")
    if not isinstance(target, str):
        raise UserError(f"{_key(place, '_target_')}={shown(target)}: is no name; give that of the class to build, package.Class.")
    _check_moved(target)
    if unset := [key for key, value in values.items() if value == "???"]:
        raise UserError(f"{_key(place, unset[0])} has no default: give {_key(place, unset[0])}=... .")
    constructor = _located(target, place)
    if inspect.isabstract(constructor):
        lacks = ", ".join(sorted(cast("ABCMeta", constructor).__abstractmethods__))
        raise UserError(f"{origin(target, place)}{target}: is abstract, it lacks {lacks}; name a class that has them.")
    options = options_of(constructor)
    given = {str(key): value for key, value in values.items() if key != "_target_"}
    foreign = [key for key in given if key.startswith("_")]
    if foreign:
        raise UserError(f"{origin(target, place, foreign[0])}{_key(place, foreign[0])}: is Hydra's own business; leave it out.")
    unknown = [key for key in given if key not in options.kinds]
    if unknown and not options.others:
        has = ", ".join(options.kinds) or "none of its own"
        raise UserError(f"{origin(target, place, unknown[0])}{_key(place, unknown[0])}: {target} has no such key; it has {has}.")
    lacking = [key for key in options.required if key not in given]
    if not inspect.isclass(constructor) and "q" in lacking:  # it would be called on tensors, not on options
        raise UserError(
            f"{origin(target, place)}{target}: is a function on q; name a class that has it as __call__; see the README."
        )
    if lacking:
        raise UserError(f"{origin(target, place)}{target} needs {', '.join(lacking)}: give {_key(place, lacking[0])}=... .")
    typed = {}
    for key, value in given.items():
        kind = options.kinds.get(key, Any)
        try:
            typed[key] = held(kind, value, _key(place, key))
        except UserError as error:
            raise UserError(f"{stated(target, place, key, value)}{error}") from error
        if made_text(typed[key], value):
            check_read(target, place, key, value)
        if isinstance(value, dict) and "_target_" in value:
            typed[key] = _typed(value, _key(place, key))
            _check_nested(_located(typed[key]["_target_"], _key(place, key)), kind, _key(place, key))
    return {**values, **typed}


def _key(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _foreign(target: str, place: str) -> str:
    """The YAML file of a class of somebody's own, as the start of a message."""
    return "" if _top(target) == "fna" else origin(target, place)


def in_place(message: str, values: Mapping[str, Any], place: str) -> str:
    """What a constructor says of a value, with the place of the value: "steps=0: ..." of attn is "attn.steps=0: ..."."""
    if message.partition("=")[0] in values:
        return f"{place}.{message}"
    return message if message.startswith(f"{place.partition('.')[0]}.") else f"{place}: {message}"


def _write_back(node: DictConfig, typed: dict[str, Any]) -> None:
    for key, value in typed.items():
        if isinstance(value, dict):
            _write_back(node[key], value)
        elif isinstance(value, Path | Enum):  # in a result they are text
            node[key] = str(value) if isinstance(value, Path) else value.name
        elif not isinstance(value, list) and (node[key] != value or type(node[key]) is not type(value)):
            node[key] = value


def _located(target: str, place: str) -> Callable[..., Any]:
    """The object of that dotted name. `UserError` where importing it fails, with the line of the module that did."""
    parts = target.split(".")
    try:
        found = _imported(parts)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and _top(error.name) not in ("fna", parts[0]):
            raise not_installed(target, error) from error
        unknown = isinstance(error, ModuleNotFoundError) and error.name == parts[0]
        mend = "its folder has to be on PYTHONPATH" if unknown else "mend that, or the path"
        raise UserError(f"{origin(target, place)}{target}: cannot be imported ({_blamed(error)}); {mend}.") from error
    if not callable(found):
        raise UserError(f"{origin(target, place)}{target}: is no class or function that could be called; name one.")
    return cast("Callable[..., Any]", found)


def _blamed(error: BaseException) -> str:
    """What went wrong in an import or a constructor, and in which line where that is a line of the module's own."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, SyntaxError):
        return f"{error.filename} line {error.lineno}: {error.msg}"
    if where.filename == __file__ or where.filename.startswith("<frozen"):
        return str(error)
    return f"{where.filename} line {where.lineno}: {type(error).__name__}: {error}"


def _imported(parts: Sequence[str]) -> Any:
    """The longest module that the dotted name begins with, and what the rest names in it."""
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            return reduce(getattr, parts[length:], import_module(name))
        except ModuleNotFoundError as error:
            if length == 1 or error.name != name:
                raise
    return import_module(parts[0])


def _listed(place: str) -> str:
    return " or ".join(f"{place}={name}" for name in list(choices(place))[:3]) or "another"


# What a group's target has to make: the members of the protocol that it stands for (tests/test_conf.py holds them together).
MEMBERS = {
    "attn": ("__call__",),
    "sampler": ("gives",),
    "model": ("depth", "patch_size", "check", "build"),
    "dataset": ("domain", "split", "check", "load"),
    "task": ("version", "check", "forward", "evaluate"),
    "mask": ("unmasked",),
    "logger": ("check", "log"),
}


def _check_made(made: Any, place: str, target: str) -> None:
    lacks = [name for name in MEMBERS.get(place, ()) if not _has(made, name)]
    if not lacks and place == "attn":
        try:
            inspect.signature(getattr(made, "forward", made)).bind("q", "k", "v", "site")  # what torch's modules hand all on to
        except (TypeError, ValueError):
            lacks = ["__call__(self, q, k, v, site)"]
    if place == "reduce" and not callable(made) and not _has(made, "on"):  # what changes tokens, or pictures
        lacks = ["__call__(self, x, place)"]
    if lacks:
        raise UserError(f"{origin(target, place)}{target}: makes no {place}, it has no {', '.join(lacks)}; see the README.")


def _has(made: Any, name: str) -> bool:
    """Whether an object has that member; a property is not run, which may read files that its ``check`` is to refuse."""
    try:
        inspect.getattr_static(made, name)
    except AttributeError:
        return False
    return True


def _check_nested(found: Any, kind: Any, place: str) -> None:
    """Refuse a class where another kind of object is asked for: a protocol's members, a class's subclass."""
    asked = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and part.__module__.startswith("fna.")]
    if not asked or not isinstance(found, type):
        return
    fields = getattr(found, "__dataclass_fields__", {})
    for part in asked:
        members = [name for name in {**vars(part), **vars(part).get("__annotations__", {})} if not name.startswith("_")]
        protocol = getattr(part, "_is_protocol", False)
        if issubclass(found, part) if not protocol else all(hasattr(found, name) or name in fields for name in members):
            return
    raise UserError(f"{place}._target_={found.__module__}.{found.__qualname__}: is no {asked[0].__name__}; name one that is.")


def _top(module: str | None) -> str:
    return str(module).partition(".")[0]


def _check_moved(target: str) -> None:
    """Raise `UserError` for a path of before 0.1.0's ``fna.attention`` became ``fna.ops``."""
    if target.startswith("fna.attention."):
        raise UserError(f"_target_: {target} has moved; write fna.ops.{target.removeprefix('fna.attention.')}.")


# of fna.swap, fna.attention and fna.compare, which hand over what they do not know (tests/test_compare_api.py)
KEYWORDS = (
    "attn", "sampler", "landmarks", "layers", "mask", "reduce", "metric", "lower_is_better", "forward", "versus", "rounds",
    "bootstrap", "seed", "scale", "keys", "causal", "prefix", "grid", "blocks", "seam", "part",
)  # fmt: skip


def build_attention(
    name: str,
    *,
    landmarks: int | float | str = 64,
    sampler: Any = "fps",
    seed: int = 0,
    search: Sequence[Path] = (),
    **options: Any,
) -> Any:
    """The attention that ``attn=name`` means on the command line, for library use.

    ``sampler``: a name, or an object of one's own (`fna.ops.landmarks.TokenSampler`). ``options`` override keys of its YAML file
    (``inverse="exact"``). Raises `UserError` for unknown names and keys.
    """
    node = load_option("attn", name, search)
    if not node.get("_target_"):
        raise UserError(f"{choices('attn', search)[name]}: has no _target_; name the class to build.")
    unknown = sorted(set(options) - set(node))
    if unknown:
        known = sorted(str(key) for key in node if key != "_target_")
        hint = "" if unknown[0] in KEYWORDS else nearest(unknown[0], [*known, *KEYWORDS])  # no "mask; did you mean mask?"
        raise NoOption(f"attn={name} has no option {', '.join(unknown)}; {hint}it has {', '.join(known) or 'none'}.")
    told = {key: plain(value) for key, value in options.items()}
    named = sampler if isinstance(sampler, str) else "fps"
    groups = {"sampler": load_option("sampler", named, search), "attn": OmegaConf.merge(node, told)}
    root = OmegaConf.create({"landmarks": plain(landmarks), "seed": plain(seed), **groups})
    built = instantiate(root.attn)
    return built if isinstance(sampler, str) else _with_sampler(built, sampler, root.attn, name)


def _with_sampler(built: Any, sampler: Any, node: DictConfig, name: str) -> Any:
    """An attention with an object in the fields that its YAML has follow the sampler. `UserError` where that can't be one."""
    if not callable(sampler):
        known = ", ".join(choices("sampler"))
        raise UserError(f"sampler={sampler!r}: give one of {known}, or a sampler of your own, called as fna.ops.landmarks says.")
    fields = [str(key) for key, value in node.items_ex(resolve=False) if value == "${sampler}"]
    if not is_dataclass(built):
        raise UserError(f"attn={name} is no dataclass: make it with the sampler {type(sampler).__name__} and hand over the object.")
    made: Any = built
    return replace(made, **dict.fromkeys(fields, sampler))
