"""Entries of annotation files, held against what will be read of them: every refusal names the file and the entry."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import tokenize
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from fna.data import files
from fna.data.base import is_text
from fna.errors import UserError
from fna.mistaken import refuse_mistaken

_REQUIRED = object()
DIVIDERS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of tables


@dataclass(frozen=True)
class Entry:
    """A JSON object and where it stands ("captions.json: images[3]"). Each method reads one field and refuses another type.

    Raises `UserError` for a field that is not there (where no default is given; null counts as not there) or not of its type.
    """

    fields: Mapping[str, Any]
    where: str

    def entries(self, name: str) -> list[Entry]:
        """The objects of a list."""
        value = self._value(name, _REQUIRED)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        for place, each in enumerate(value):
            if not isinstance(each, Mapping):
                raise UserError(f"{self._inside(name)}[{place}]: {_short(each)} is no entry with named fields.")
        return [Entry(each, f"{self._inside(name)}[{place}]") for place, each in enumerate(value)]

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        """A string that UTF-8 can say."""
        value = self._value(name, default)
        if value is not default and not is_text(value):
            raise self.wrong(name, "text")
        return value

    def ident(self, name: str, default: Any = _REQUIRED) -> Any:
        """An id as text: tools write 7, "7" and 7.0 for the same one."""
        value = self._value(name, default)
        if value is default:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not (isinstance(value, int) or (is_text(value) and value)):
            raise self.wrong(name, "a whole number or a name")
        return str(value)

    def whole(self, name: str, default: Any = _REQUIRED) -> Any:
        """A whole number of at least 0."""
        value = self.number(name, default)
        if value is not default and (value != int(value) or value < 0):
            raise self.wrong(name, "a whole number")
        return value if value is default else int(value)

    def number(self, name: str, default: Any = _REQUIRED) -> Any:
        """A finite number."""
        value = self._value(name, default)
        if value is not default and not is_number(value):
            raise self.wrong(name, "a number")
        return value

    def flag(self, name: str) -> bool:
        """Yes (1, true) or no (0, false, not there)."""
        value = self._value(name, 0)
        if not isinstance(value, int) or value not in (0, 1):
            raise self.wrong(name, "0 or 1")
        return bool(value)

    def wrong(self, name: str, needed: str) -> UserError:
        """The error for a field of another type."""
        return UserError(f"{self.where}: {name} is {_short(self.fields.get(name))}; {needed} is needed.")

    def _value(self, name: str, default: Any) -> Any:
        value = self.fields.get(name)
        if value is None and default is _REQUIRED:
            there = ", ".join(str(field) for field in list(self.fields)[:6]) or "nothing"
            raise UserError(
                f"{self.where}: {name} is {'null' if name in self.fields else 'missing'}; it holds {ascii(there)[1:-1]}."
            )
        return default if value is None else value

    def _inside(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where.endswith("]") else f"{self.where}: {name}"


def read(source: Path, refusal: str, *lists: str, form: str = "") -> Entry:
    """The object that a JSON file holds. Raises `UserError` for a file that is missing, no JSON or, with ``refusal`` and an example
    of the ``form`` that is needed, no object with these lists."""
    content = _whole(source) if form else files.read_json(source)
    missing = [name for name in lists if not isinstance(content, Mapping) or not isinstance(content.get(name), list)]
    if missing:
        has = f"has no list of {missing[0]}" if isinstance(content, Mapping) else "is no object with named lists"
        needed = f"; {form} is needed" if form else ""
        raise UserError(f"{source}: {refusal} (it {has}){needed}; give another with dataset.annotations=PATH.")
    return Entry(content, str(source))


def _whole(source: Path) -> Any:
    """What a JSON file holds; None of one that holds a JSON a line (JSONL)."""
    try:
        return files.read_json(source)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, json.JSONDecodeError) and cause.msg == "Extra data" and cause.doc[cause.pos] == "{":
            return None
        raise


def by_ident(entries: Iterable[Entry], name: str) -> dict[str, Entry]:
    """Entries by the id or name in one of their fields. Raises `UserError` for two that say different things of one."""
    found: dict[str, Entry] = {}
    for entry in entries:
        ident = entry.ident(name)
        first = found.setdefault(ident, entry)
        if first.fields != entry.fields:
            raise UserError(f"{entry.where}: {name} {ident} stands at {first.where} too and says something else; keep one.")
    return found


def is_number(value: object) -> bool:
    """A finite number, and no yes or no; a whole one of more digits than a float holds is none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def in_order(ident: str) -> tuple[bool, int, str]:
    """Sorts ids as numbers where they are numbers, the others behind by name."""
    number = ident.isascii() and ident.isdigit()
    return not number, int(ident) if number else 0, ident


def _short(value: object) -> str:
    return ascii(value)[:60]


def divider(file: TextIO, usual: str) -> str:
    """What the first line of a table is divided by, whatever the suffix says: ``usual``, else what stands in it, as a European
    spreadsheet writes semicolons."""
    head = file.readline()
    file.seek(0)
    return usual if usual in head else next((one for one in DIVIDERS if one in head), usual)


def table(source: Path) -> list[Entry]:
    """The lines of a CSV or TSV of questions; an empty cell is a field that is not there. Raises `UserError` with file and line."""
    refuse_mistaken(source)
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            divided = divider(file, "\t" if source.suffix.lower() == ".tsv" else ",")
            reader = csv.DictReader(file, delimiter=divided, skipinitialspace=True)
            heads = list(reader.fieldnames or ())
            if twice := next((head for head in heads if head and heads.count(head) > 1), None):
                raise UserError(f"{source}: has the column {twice!r} twice; name each once (answers: one, or a JSON list).")
            found = []
            for row in reader:
                fields: dict[str, Any] = {name: value for name, value in row.items() if name and value}
                if any(row.get(reader.restkey) or ()):
                    where = f"{source}, line {reader.line_num}"
                    raise UserError(f"{where}: has more cells than columns; put text with {DIVIDERS[divided]} in quotes.")
                told = fields.get("answers", "")
                if told.startswith("["):
                    fields["answers"] = _list(told, f"{source}, line {reader.line_num}")
                found.append(Entry(fields, f"{source}, line {reader.line_num}"))
            return found
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{source}: not a CSV ({error}); save it as text in UTF-8.") from error


def _list(text: str, where: str) -> Any:
    """A list as JSON or, as pandas writes it into a cell, as Python has it."""
    try:
        return files.parsed(text)
    except ValueError as error:
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return literal(text, where)
        raise UserError(f"{where}: answers are no JSON list ({error}).") from error


def literal(text: str, where: str) -> Any:
    """What Python's literal says: parsed, never evaluated.

    Raises `UserError` where it would join texts that stand side by side, as those of an array that numpy prints do, and what
    `ast.literal_eval` does.
    """
    value = ast.literal_eval(text)
    texts = sum(token.type == tokenize.STRING for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline))
    if isinstance(value, list | tuple) and texts > len(value):
        raise UserError(
            f"{where}: {text[:60]} has texts without a comma between them, as numpy prints an array; write lists, "
            'table["captions"].map(list) in pandas.'
        )
    return value
