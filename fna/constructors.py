"""What a constructor takes: its keys, their types, and which have to be given."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

OWN = ("version",)  # a field that is raised by hand with the code, and no option


class Options(NamedTuple):
    """What a constructor takes: the type of each key, the keys that have to be given, and whether others are taken as well."""

    kinds: Mapping[str, Any]
    required: Sequence[str]
    others: bool


def options_of(constructor: Callable[..., Any]) -> Options:
    """From the fields of a dataclass, else from the signature; an annotation that cannot be resolved lets everything through."""
    try:
        parameters = inspect.signature(constructor).parameters
    except ValueError:  # of some builtins nobody knows
        return Options({}, [], True)
    kinds, required, others = {}, [], False
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            others = others or parameter.kind == parameter.VAR_KEYWORD
        elif not name.startswith("_") and name not in OWN:
            kinds[name] = _annotation(constructor, name, parameter.annotation)
            if parameter.default is parameter.empty:
                required.append(name)
    return Options(kinds, required, others)


def _annotation(constructor: Any, name: str, raw: Any) -> Any:
    """The annotation of a parameter; a string is looked up in the module of the class that declares the field."""
    if raw is inspect.Parameter.empty:
        return Any
    classes = constructor.__mro__ if isinstance(constructor, type) else ()
    home = next((cls for cls in classes if name in vars(cls).get("__annotations__", {})), constructor)
    names = vars(inspect.getmodule(home)) if inspect.getmodule(home) else {}
    try:
        return get_type_hints(types.SimpleNamespace(__annotations__={"it": raw}), names, include_extras=True)["it"]
    except Exception:  # what is imported for type checkers only is not there to be looked up, and its name says nothing
        return Any
