"""What tells a part of a run, an op, a mask, a task, from any other: its settings, and the code that it is made of."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

OWN = Path(__file__).resolve().parent


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

    A class that declares a ``version`` is told by it; one that declares none, or a function, by its bases and the digest of its
    file and of what that imports from its folder, so that a method being written is computed anew after each edit.
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
        found.append(hashlib.sha256(b"\0".join(file.read_bytes() for file in _files(kind))).hexdigest())
    return found


def _files(kind: Any) -> list[Path]:
    """The file of a class or function and, outside fna, those that it imports from its folder, and what these import from it."""
    first = Path(inspect.getfile(kind)).resolve()
    found: dict[Path, None] = {}
    todo = [] if first.is_relative_to(OWN) else [(kind.__module__, first)]
    while todo:
        name, file = todo.pop()
        if file not in found:
            found[file] = None
            todo += [(other, place) for other, place in _imported(name, file) if _of_ones_own(place, first.parent)]
    return [first, *sorted(found.keys() - {first})]


def _of_ones_own(file: Path, folder: Path) -> bool:
    """Whether a file is in this folder, and neither fna's nor an installed package's, which may lie below it as well."""
    return file.is_relative_to(folder) and not file.is_relative_to(OWN) and "site-packages" not in file.parts


def _imported(name: str, file: Path) -> Iterator[tuple[str, Path]]:
    """Names and files of the modules that a module's text imports, of those that are loaded."""
    package = getattr(sys.modules.get(name), "__package__", None) or ""
    for node in ast.walk(ast.parse(file.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, [start, node.module]))
            names = [base, *(f"{base}.{name}" for name in names)]
        for other in names:
            place = getattr(sys.modules.get(other), "__file__", None)
            if place is not None and place.endswith(".py"):
                yield other, Path(place).resolve()
