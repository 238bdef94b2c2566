"""What tells a part of a run, an op, a mask, a task, from any other: its settings, and the code that it is made of."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any


def settings(part: Any) -> Any:
    """The settings of a part as plain data, the same in every process: its class by name, its fields, and theirs in turn.

    Of an object that is no dataclass its attributes count; of a function its name. A field that stays out of ``repr`` is none.
    """
    if isinstance(part, Enum):
        return [settings(type(part)), part.name]
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, Mapping):
        return sorted([settings(key), settings(value)] for key, value in part.items())
    if isinstance(part, Sequence | set | frozenset):
        values = [settings(value) for value in part]
        return values if isinstance(part, Sequence) else sorted(values, key=repr)
    if isinstance(part, partial):
        return [settings(part.func), settings(part.args), settings(part.keywords)]
    if inspect.isroutine(part) or inspect.isclass(part):
        return f"{part.__module__}.{part.__qualname__}"
    held = (
        {one.name: getattr(part, one.name) for one in fields(part) if one.repr}
        if is_dataclass(part)
        else {name: value for name, value in getattr(part, "__dict__", {}).items() if not name.startswith("_")}
    )
    return [settings(type(part)), {name: settings(value) for name, value in sorted(held.items())}]


def versions(part: Any) -> list[Any]:
    """What tells the code of a part from an earlier one, and the same of the dataclasses in its fields, such as its sampler.

    A class that declares a ``version`` is told by it; one that declares none, or a function, by the digest of its file and by its
    bases, so that a method being written is computed anew after each edit. What its file imports is not looked at.
    """
    values = [getattr(part, one.name) for one in fields(part)] if is_dataclass(part) else []
    return [*_code(part), *(versions(value) for value in values if is_dataclass(value))]


def _code(part: Any) -> list[Any]:
    if isinstance(part, partial):
        return _code(part.func)
    found: list[Any] = []
    for kind in [part] if inspect.isfunction(part) else type(part).__mro__[:-1]:  # the last is object
        if "version" in vars(kind):
            return [*found, part.version]
        found.append(hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest())
    return found
