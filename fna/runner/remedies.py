"""How to write a word that cannot be used as it stands. What is told here works when it is typed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.types import Quote, QuotedString

from fna.configs import kinds
from fna.errors import UserError
from fna.runner.chosen import raw_values
from fna.schema import ACCEPTED
from fna.values import held

FOLDERS = ("rows_dir", "cache")  # keys of folders that are made where they are not there
Known = Mapping[str, Mapping[str, Path]]  # group -> option -> its YAML
Options = Mapping[str, Sequence[str]]  # group -> the options of it that the words come to


def written(key: str, text: str) -> str:
    """``key=text`` for a shell, in quotes that Hydra takes off again."""
    return in_shell(f"{key}={quoted(text)}")


def quoted(text: str) -> str:
    """A text in quotes that Hydra takes off again."""
    return QuotedString(text, Quote.double if "'" in text else Quote.single).with_quotes()


def in_shell(word: str) -> str:
    """A word as one of a shell."""
    return shlex.quote(word) if set(word) & set('"$`\\!') else f'"{word}"'


def kind_of(key: str, options: Options, known: Known, extra: Sequence[Path] = ()) -> Any:
    """What a key takes: a root knob's type, a group's options, the type of a chosen option's class; Any where nobody says."""
    if key in known:
        return Literal[tuple(known[key])]
    if key in ACCEPTED:
        return ACCEPTED[key]
    group, _, path = key.partition(".")
    raw = [raw_values(group, name, extra) for name in options.get(group, ())]
    raw += [raw_values(group, name, extra) for one in raw for name in dict(one.get("by_domain") or {}).values()]
    return next((kind for one in raw if (kind := kind_within(one, path)) is not None), Any)


def kind_within(node: Mapping[str, Any], path: str) -> Any:
    """What the key ``path`` of a node with a ``_target_``, or of one below it, takes; None of a node without."""
    key, _, rest = path.partition(".")
    below = node.get(key)
    if rest and isinstance(below, Mapping):
        return kind_within(below, rest)
    return kinds(node["_target_"]).get(path, Any) if isinstance(node.get("_target_"), str) else None


def check_nothing(word: str, key: str, values: Iterable[Any], kind: Callable[[str], Any]) -> None:
    """Refuse "none" where it would be taken for a text or a folder of that name. ``kind``: what a key takes; imports its class."""
    if not any(isinstance(value, str) and value.lower() == "none" for value in values) or kind(key) is Any:
        return
    if takes(kind(key), None) and takes(kind(key), "some text"):
        raise UserError(f"{word}: is a text here; null is none: write {key}=null")
    if key.rpartition(".")[2] in FOLDERS:
        raise UserError(f"{word}: would be a folder of that name, and one is needed; leave it out, or write {key}=./none")


def takes(kind: Any, value: Any) -> bool:
    """Whether something of that type may be this."""
    try:
        held(kind, value, "")
    except UserError:
        return False
    return True
