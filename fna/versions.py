"""What tells a part of a run, an op, a mask, a task, from any other: its settings, and the code that it is made of."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copyreg import dispatch_table
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property, partial
from importlib.util import resolve_name
from pathlib import Path, PurePath
from typing import Any

OWN = Path(__file__).resolve().parent


def settings(part: Any, above: tuple[int, ...] = ()) -> Any:
    """The settings of a part as plain data, the same in every process: its class by name, what it holds, and what that holds.

    Of a dataclass its fields count, but those that stay out of ``repr``; of any other object every attribute, private ones too;
    of a function what it closes over and its defaults; of an array its contents. ``above``: ids of the objects that hold it.
    """
    if isinstance(part, Enum):
        return [settings(type(part)), part.name]
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if inspect.isclass(part):
        return f"{part.__module__}.{part.__qualname__}"
    if id(part) in above:
        return f"what holds it, {above[::-1].index(id(part))} above"
    inner = (*above, id(part))
    if isinstance(part, Mapping):
        return sorted(([settings(key, inner), settings(value, inner)] for key, value in part.items()), key=repr)
    if isinstance(part, Sequence | set | frozenset):
        values = [settings(value, inner) for value in part]
        return values if isinstance(part, Sequence) else sorted(values, key=repr)
    if (content := _content(part)) is not None:
        return [settings(type(part)), content]
    held = {key: settings(value, inner) for key, value in sorted(_held(part).items())}
    if inspect.isroutine(part):
        name = f"{part.__module__}.{part.__qualname__}"
        return [name, held] if held else name
    return [settings(type(part)), held]


def versions(part: Any) -> list[Any]:
    """What tells the code of a part from an earlier one, and the same of the dataclasses that it holds, such as its sampler.

    A class that declares a ``version`` is told by it; one that declares none, or a function, by its bases and the digest of its
    file and of what that imports from where its package lies, so that a method being written is computed anew after each edit.
    """
    held = [getattr(part, one.name) for one in fields(part)] if is_dataclass(part) else _held(part).values()
    return [*_code(part), *(versions(value) for value in held if is_dataclass(value) and not inspect.isclass(value))]


def _held(part: Any) -> dict[str, Any]:
    """What decides what an object or a function does, by name, beside its code."""
    if isinstance(part, partial):
        return {"func": part.func, "args": part.args, "keywords": part.keywords}
    if inspect.ismethod(part):
        return {"self": part.__self__}
    if inspect.isroutine(part):
        return _closed_over(part)
    shown = {one.name: one.repr for one in fields(part)} if is_dataclass(part) else {}
    kinds = type(part).__mro__
    made_later = {name for kind in kinds for name, value in vars(kind).items() if isinstance(value, cached_property)}
    slots = {name for kind in kinds for name in _names(vars(kind).get("__slots__", ()))} - {"__dict__", "__weakref__"}
    if not is_dataclass(part) and (_keeps(type(part)) or not (slots or hasattr(part, "__dict__"))):
        return _pickled(part)
    names = {*shown, *getattr(part, "__dict__", {}), *slots} - made_later
    return {name: getattr(part, name) for name in names if shown.get(name, True) and hasattr(part, name)}


def _keeps(kind: type) -> bool:
    """Whether a class says itself what of it has to be kept."""
    return kind.__reduce__ is not object.__reduce__ or kind.__getstate__ is not object.__getstate__


def _pickled(part: Any) -> dict[str, Any]:
    """What pickle keeps of an object that Python cannot look into, such as a pattern, or that says itself what has to be kept."""
    try:
        made = dispatch_table[type(part)](part) if type(part) in dispatch_table else part.__reduce_ex__(4)
    except TypeError:  # there is nothing to be kept
        return {}
    return {"made of": made[1:3]} if isinstance(made, tuple) else {}


def _names(slots: str | Sequence[str]) -> Sequence[str]:
    return [slots] if isinstance(slots, str) else slots


def _closed_over(function: Any) -> dict[str, Any]:
    """What a function closes over, its defaults and its attributes; nothing of one that is not written in Python."""
    if not inspect.isfunction(function):
        return {}
    held = dict(vars(function))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name that was not yet given a value
            held[name] = cell.cell_contents
    if "<" not in function.__qualname__:  # of a module, whose text says the defaults
        return held
    code = function.__code__  # of lambdas that stand in one line
    does = [code.co_code.hex(), [repr(one) for one in code.co_consts if not inspect.iscode(one)], code.co_names]
    defaults = {"does": does, "defaults": function.__defaults__, "keyword defaults": function.__kwdefaults__}
    return held | {name: value for name, value in defaults.items() if value}


def _content(part: Any) -> str | None:
    """The digest of an array or a tensor, the text of a path, a dtype or a device; None for what is made of other things."""
    if isinstance(part, PurePath):
        return str(part)
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")  # neither is loaded on account of this
    if torch is not None and isinstance(part, torch.dtype | torch.device):
        return str(part)
    if torch is not None and isinstance(part, torch.Tensor) and part.layout is torch.strided and not part.is_quantized:
        numbers = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{part.dtype} {tuple(part.shape)} {hashlib.sha256(numbers.tobytes()).hexdigest()}"
    if numpy is not None and isinstance(part, numpy.ndarray | numpy.generic):
        return f"{part.dtype} {part.shape} {hashlib.sha256(part.tobytes()).hexdigest()}"
    return None


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
    """The file of a class or function and, outside fna, those that it imports from where it lies, and what these import."""
    first = Path(inspect.getfile(kind)).resolve()
    home = _home(kind.__module__, first)
    found: dict[Path, None] = {}
    todo = [] if first.is_relative_to(OWN) else [(kind.__module__, first)]
    while todo:
        name, file = todo.pop()
        if file not in found:
            found[file] = None
            todo += [(other, place) for other, place in _imported(name, file) if _of_ones_own(place, home)]
    return [first, *sorted(found.keys() - {first})]


def _home(name: str, file: Path) -> Path:
    """The folder that the outermost package of a module lies in; of a module in none, that of its file."""
    inside = getattr(sys.modules.get(name.partition(".")[0]), "__path__", ())
    return next((Path(one).resolve().parent for one in inside if file.is_relative_to(Path(one).resolve())), file.parent)


def _of_ones_own(file: Path, folder: Path) -> bool:
    """Whether a file is in this folder, and neither fna's nor an installed package's, which may lie below it as well."""
    return file.is_relative_to(folder) and not file.is_relative_to(OWN) and "site-packages" not in file.parts


def _imported(name: str, file: Path) -> Iterator[tuple[str, Path]]:
    """Names and files of the modules that a module's text imports, of those that are loaded."""
    package = getattr(sys.modules.get(name), "__package__", None) or ""
    for node in ast.walk(ast.parse(file.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else _called(node, package)
        if isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, [start, node.module]))
            names = [base, *(f"{base}.{name}" for name in names)]
        for other in names:
            place = getattr(sys.modules.get(other), "__file__", None)
            if place is not None and place.endswith(".py"):
                yield other, Path(place).resolve()


def _called(node: ast.AST, package: str) -> list[str]:
    """The module that a call of ``importlib.import_module`` or ``__import__`` names, where it is written out."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return []
    called, name = getattr(node.func, "attr", getattr(node.func, "id", "")), node.args[0].value
    if called not in ("import_module", "__import__") or not isinstance(name, str):
        return []
    with suppress(ImportError):  # of more dots than packages
        return [resolve_name(name, package)]
    return []
