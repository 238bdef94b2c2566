"""One word of a command line as Hydra reads it, and how to write what it cannot read."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, RangeSweep
from hydra.errors import HydraException

from fna.configs import choices
from fna.errors import UserError
from fna.runner.chosen import check_range, groups, values
from fna.runner.remedies import in_shell, quoted, takes, written
from fna.schema import Knobs
from fna.spelling import nearest
from fna.values import accepted

OPENED, CLOSED, QUOTES = "{[(", ")]}", "'\""
HOME = re.compile(r"~[\w.-]*(/.*)?")  # a path as shells write it
TIGHT = r",(?!\s)"  # a comma before a blank is the text's own
KEY = re.compile(r"[{,]\s*[^,{}]+?\s*:")  # of a mapping without another inside


def uncut(words: Sequence[str]) -> None:
    """Raise `UserError` for a word in brackets that the shell has cut at its blanks: ``layers={0-5: exact, 6-11: fna}``."""
    for place, word in enumerate(words):
        if "=" not in word or not set(OPENED) & set(word) or read(word) is not None:
            continue
        for end in range(place + 2, len(words) + 1):
            if read(whole := " ".join(words[place:end])) is not None:
                raise UserError(f"{whole}: the shell cuts words at blanks; write {shlex.quote(whole)}")


def read(word: str) -> Override | None:
    """A word as Hydra reads it, None where it cannot."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    override.input_line = word
    return override if override.key_or_group and ("=" in word or override.type == OverrideType.DEL) else None


def parsed(word: str, kind: Callable[[str], Any] = lambda key: Any) -> Override:
    """A word as Hydra reads it; `UserError` says how to write what Hydra cannot read. ``kind``: what a key takes."""
    if (override := read(word)) is not None:
        if isinstance(override._value, RangeSweep):
            check_range(word, override._value)
        if isinstance(override._value, dict) and len(KEY.findall(word)) > len(override._value) and word.count("{") == 1:
            raise UserError(f"{word}: a key stands there twice, of which Hydra takes the last; give each once.")
        return override
    key, equals, value = word.partition("=")
    if not word.strip():
        raise UserError("'': a word is empty, perhaps a variable of the shell that is not set; drop it.")
    if not equals:
        meant = next(
            (f"did you mean {group}={word}?" for group in groups() if word in choices(group)),
            "write knob=value without spaces around =, such as landmarks=64.",
        )
        raise UserError(f"{word}: is no knob=value; {meant}")
    if read(f"{key}=x") is None:
        raise UserError(f"{word}: '{key}' is no knob's name; write knob=value without spaces around =, such as landmarks=64.")
    plain = key.lstrip("+")
    if "${" in value and value.count("${") > value.count("}"):
        raise UserError(f"{word}: ${{ begins another key's name, as in ${{seed}}; close it with }}, or leave it out.")
    if HOME.fullmatch(value) and (place := os.path.expanduser(value)) != value:
        raise UserError(f"{word}: shells know ~ at the start of a word alone; write {written(plain, place)}")
    if value[:1] not in OPENED and any(_of_ours(part) for part in value.split()[1:]):  # a list is one word, not two to part
        raise UserError(f"{word}: is more than one word; write {shlex.join(word.split())}")
    if value.endswith(","):
        raise UserError(f"{word}: ends in a comma; write several values without spaces: {plain}=A,B.")
    near = nearest(value, choices(plain)) if plain in groups() else ""
    raise UserError(f"{word}: Hydra reads some of these signs as its own; {near}{_remedy(plain, value, kind(plain))}")


def _remedy(key: str, value: str, kind: Any) -> str:
    """How to give what Hydra cannot read, as the values of a sweep and as the one that it may be; else what the key takes."""
    parts = _cut(value, TIGHT)
    ones = [f"{key}={_quoted(value, comma)}" for comma in (",", TIGHT)]
    one = next((word for word in ones if _fits(word, 1, kind)), "")
    several = f"{key}={','.join(map(_quoted, parts))}"
    ways = []
    if len(parts) > 1 and _fits(several, len(parts), kind):
        ways.append(f"write {in_shell(several)} for {len(parts)} values (-m)")
    if one and not (ways and value[:1] == "["):  # lists make no text
        ways.append(f"write {in_shell(one)}{' for one' * len(ways)}")
    return ", or ".join(ways) or f"give {accepted(kind)}."


def _fits(word: str, count: int, kind: Any) -> bool:
    """Whether Hydra reads so many values there, each of which the key takes."""
    found = [] if (override := read(word)) is None else [*values(override)]
    return len(found) == count and all(takes(kind, value) for value in found)


def _quoted(value: str, comma: str = ",") -> str:
    """A value as Hydra reads it: as it stands, else in quotes; of a list the entries that need them, which ``comma`` parts."""
    if value[:1] == "[" and value[-1:] == "]" and len(_cut(value, comma)) == 1:
        return f"[{','.join(_quoted(entry, comma) for entry in _cut(value[1:-1], comma))}]"
    return value if read(f"x={value}") is not None else quoted(value)


def _cut(text: str, comma: str) -> list[str]:
    """A text cut at commas that stand in no brackets and no quotes."""
    cuts, depth, quote = [-1], 0, ""
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in QUOTES:
            quote = sign
        elif sign in OPENED + CLOSED:
            depth += 1 if sign in OPENED else -1
        elif depth == 0 and re.match(comma, text[place:]):
            cuts.append(place)
    return [text[start + 1 : end].strip() for start, end in pairwise([*cuts, len(text)])]


def _of_ours(word: str) -> bool:
    """Whether a word begins as one of ours: ``landmarks=``, ``attn.steps=``."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key.split(".")[0] in Knobs.__dataclass_fields__
