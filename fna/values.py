"""Values that were typed, held against what an annotation accepts: ``bool``, ``Count``, ``Literal["a"]``, ``list[float] | None``.

A dataclass says in its fields what its YAML keys take; bounds are part of the type (`Count`, `Positive`), so that a value is
refused with what is accepted instead. Pure Python: runs before torch is imported.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from numbers import Number
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from fna.constructors import options_of
from fna.errors import UserError
from fna.spelling import nearest

LEAST_ROUNDS = 6  # of timing: below, two halves cannot be compared

BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}  # YAML 1.1; Hydra reads the outer two
LARGEST = 2**63 - 1


class Limit(NamedTuple):
    """A bound on a value as part of its type: ``Annotated[int, between(1, 10)]``. ``words`` come after "a whole number"."""

    words: str
    holds: Callable[[Any], bool]


class Says(NamedTuple):
    """How a type is put in words, where spelling out its parts would not help: ``Annotated[int | str, Says("...")]``.

    ``names``: the words among its values, of which a typo of one is told. ``otherwise``: what others call these, in small letters.
    """

    words: str
    names: tuple[str, ...] = ()
    otherwise: tuple[tuple[str, str], ...] = ()


class Misfit(ValueError):
    """A value is not of a type."""


def between(low: float, high: float) -> Limit:
    """Both ends included."""
    return Limit(f"from {low} to {high}", lambda value: low <= value <= high)


def at_least(low: float) -> Limit:
    """``low`` included."""
    return Limit(f"of at least {low}", lambda value: value >= low)


def above(low: float) -> Limit:
    """``low`` excluded."""
    return Limit(f"above {low}", lambda value: value > low)


def within(low: float, high: float) -> Limit:
    """``low`` excluded, ``high`` included."""
    return Limit(f"above {low} and up to {high}", lambda value: low < value <= high)


def of_length(*lengths: int) -> Limit:
    """For lists."""
    return Limit(f"({' or '.join(map(str, lengths))} of them)", lambda value: len(value) in lengths)


MOST = 1_000_000  # more of anything that is counted here is a mistyped number
Count = Annotated[int, between(1, MOST)]
Pixels = Annotated[int, between(1, 16_384)]
Positive = Annotated[float, above(0)]
Rate = Annotated[float, between(1e-6, 100)]  # of learning: what lies outside learns nothing, or nothing but noise
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, between(0, 1)]
Channels = Annotated[Sequence[Share], of_length(3)]  # means of pixels, which are from 0 to 1, not to 255
Spreads = Annotated[Sequence[Annotated[float, within(0, 1)]], of_length(3)]  # their standard deviations
Landmarks = Annotated[
    Annotated[int, between(1, 1_000_000)] | Annotated[float, Limit("", lambda value: 0 < value < 1)],
    Says("a count from 1 to 1000000, or a fraction of the tokens between 0 and 1"),
]
Budget = Annotated[
    Annotated[int, between(1, 1_000_000)] | Annotated[float, Limit("", lambda value: 0 < value <= 1)],
    Says("a share of the tokens above 0 and up to 1, or a count from 2 to 1000000"),
]
Domain = Literal["photographs", "generated"]


def held(kind: Any, value: Any, place: str) -> Any:
    """``value`` as ``kind`` understands it: "no" as False, 1e3 as 1000, 2017 as the name of a folder.

    Raises `UserError` with one line: ``place``, the value, what is accepted.
    """
    try:
        return _fit(kind, plain(value))
    except Misfit:
        text = "this is text; " if _reads_as_number(value) else _meant(kind, value)
        raise UserError(f"{place}={shown(value)}: {text}give {accepted(kind)}{_in_quotes(kind, plain(value), place)}.") from None


def made_text(fitted: Any, value: Any) -> bool:
    """Whether what `held` gave for ``value`` is a text, or holds one, that was none: 2017 as the name of a folder."""
    if isinstance(fitted, list) and isinstance(value, list | tuple):
        return any(map(made_text, fitted, value))
    return isinstance(fitted, str | Path) and not isinstance(value, str | Path)


def counted(number: int, thing: str, several: str = "") -> str:
    """``1 comparison``, ``2 comparisons``; ``several``: its plural, where that is not ``thing`` with an s."""
    return f"{number:,} {thing if number == 1 else several or f'{thing}s'}"


def written_out(text: str) -> str:
    """A path under ``~`` as shells write it out, which do so at the start of a word alone; any other text as it is."""
    return os.path.expanduser(text) if text.startswith("~") and "/" in text else text


def plain(value: Any) -> Any:
    """A number of numpy, such as those of ``np.arange``, as Python's own; anything else as it is."""
    return value.item() if isinstance(value, Number) and hasattr(value, "item") else value


def check_fields(made: Any, place: str) -> None:
    """Raise `UserError` for a field of a dataclass instance, made in somebody's own code, that its annotation does not take."""
    for name, kind in options_of(type(made)).kinds.items():
        held(kind, getattr(made, name), f"{place}.{name}")


def _reads_as_number(value: Any) -> bool:
    """Whether this is a text that looks like the number that it is not."""
    try:
        return isinstance(value, str) and float(value) == float(value)
    except ValueError:
        return False


def _in_quotes(kind: Any, value: Any, place: str) -> str:
    """How to give a text that looks like a number, or like true and false, where it was read as that; "" for all else."""
    texts = [*map(_as_said, value)] if isinstance(value, list) else _as_said(value)
    try:
        _fit(kind, texts)
    except Misfit:
        return ""
    if texts == value:
        return ""
    quoted = f"[{','.join(map(repr, texts))}]" if isinstance(texts, list) else repr(texts)
    key = place.rpartition(".")[2]
    return f'; one that looks like a number or like true stands in quotes, "{place}={quoted}" in a shell, {key}: {quoted} in YAML'


def _as_said(value: Any) -> Any:
    return shown(value) if isinstance(value, bool | float) else value


def _meant(kind: Any, value: Any) -> str:
    """The word of a type that may have been meant by this one, as a question; "" where none is near."""
    said = [part for part in get_args(kind) if isinstance(part, Says)] if get_origin(kind) is Annotated else []
    if said and (known := dict(said[0].otherwise).get(shown(value).lower().removeprefix("torch."))):
        return f"did you mean {known}? "
    return nearest(value, said[0].names) if said and isinstance(value, str) else ""


def shown(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(shown, value)) + "]"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _fit(kind: Any, value: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        fitted = _fit(parts[0], value)
        _require(all(limit.holds(fitted) for limit in parts[1:] if isinstance(limit, Limit)))
        return fitted
    if origin in (Union, types.UnionType):
        return _any_of(parts, value)
    if origin is Literal:
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        _require(any(value == word and type(value) is type(word) for word in parts))
        return value
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    if origin in (list, tuple, Sequence) or kind in (list, tuple, Sequence):
        return _sequence(origin or kind, parts, value)
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        _require(isinstance(value, Mapping))
    elif kind is Path:
        return Path(_str(value))
    elif isinstance(kind, type) and issubclass(kind, Enum):
        return _member(kind, value)
    elif isinstance(kind, type) and kind is not object:  # an object of its own: what `_target_` builds
        _require(isinstance(value, Mapping) and "_target_" in value)
    return value


def _member(kind: type[Enum], value: Any) -> Enum:
    """A member of an Enum: itself, or told by its name or its value."""
    found = [one for one in kind if value is one or value == one.name or (type(value) is type(one.value) and value == one.value)]
    _require(bool(found))
    return found[0]


def _require(holds: bool) -> None:
    if not holds:
        raise Misfit


def _any_of(kinds: Sequence[Any], value: Any) -> Any:
    """As the first that takes it and keeps its type, else as the first that takes it; 64.0, where a count or a share may stand, is
    the count: the same rows as of 64."""
    found = []
    for kind in kinds:
        try:
            found.append(_fit(kind, value))
        except Misfit:
            continue
    _require(bool(found))
    wanted = int if isinstance(value, float) and value > 1 and any(type(fitted) is int for fitted in found) else type(value)
    return next((fitted for fitted in found if type(fitted) is wanted), found[0])


def _sequence(origin: Any, parts: Sequence[Any], value: Any) -> list[Any]:
    _require(isinstance(value, list | tuple))
    fixed = origin is tuple and parts and parts[-1] is not ...
    _require(not fixed or len(value) == len(parts))
    kinds = parts if fixed else [parts[0] if parts else Any] * len(value)
    return [_fit(kind, item) for kind, item in zip(kinds, value, strict=True)]


def _bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in BOOLS:
        return BOOLS[value.lower()]
    _require(isinstance(value, bool))
    return bool(value)


def _int(value: Any) -> int:
    _require(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
    _require(value == int(value) and abs(value) <= LARGEST)
    return int(value)


def _float(value: Any) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300)  # nan compares false
    return value  # a whole one stays as it was typed: it is part of a row's key


def _str(value: Any) -> str:
    _require(isinstance(value, str | int) and not isinstance(value, bool))
    _require(bool(str(value).strip()))
    return written_out(str(value))


def _none(value: Any) -> None:
    _require(value is None)


_PLAIN: Mapping[Any, Callable[[Any], Any]] = {
    Any: lambda value: value,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    None: _none,
    type(None): _none,
}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    None: "null",
    type(None): "null",
}


def accepted(kind: Any) -> str:
    """What a type takes, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        said = next((part.words for part in parts[1:] if isinstance(part, Says)), None)
        return said or " ".join([accepted(parts[0]), *(part.words for part in parts[1:] if isinstance(part, Limit))])
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(accepted(part) for part in parts))
        return (", or " if words[0].startswith("a list") else " or ").join(words)  # not "a list, each a text or null"
    if origin is Literal:
        return _listed([str(part) for part in parts])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _listed([one.name for one in kind])
    if origin in (list, tuple, Sequence) or kind in (list, tuple, Sequence):
        inner = accepted(parts[0]) if parts else "values"
        return f"a list [...], each {inner}" if parts else f"a list of {inner}"
    return _WORDS.get(kind) or f"a mapping with _target_ ({getattr(kind, '__name__', 'an object')})"


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
