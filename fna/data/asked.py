"""What the readers of questions about images share: the data set they give, prompts' ends, and what is refused at `load`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fna.data import files
from fna.data.base import Asked, Dataset, is_text
from fna.data.entries import Entry, is_number
from fna.errors import UserError
from fna.mistaken import refuse_mistaken
from fna.records import regular
from fna.values import counted

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
PEOPLE = 10  # who answered each question of VQAv2 and TextVQA
Scoring = Literal["exact", "vqav2", "textvqa", "gqa", "pope", "letter", "anls", "ocrbench", "cider"]  # `fna.metrics.vqa`
Told = Sequence[tuple[Asked, str]]  # questions, and what the model said
Submit = Callable[[Told], str]


@dataclass
class AskedDataset(Dataset[Asked]):
    """Questions with how they are put and scored: ``suffix`` behind each, ``scoring`` as below.

    ``longest``: tokens of an answer at most. ``submit``: the text of a file as the benchmark's own script or server takes it.
    """

    suffix: str = ""
    scoring: Scoring = "exact"
    longest: int = 16
    submit: Submit | None = None


@dataclass(frozen=True)
class Found:
    """A question and where it stands ("questions.json: questions[3]")."""

    example: Asked
    where: str


def chosen(found: Sequence[Found], limit: int | None, source: object, split: str) -> tuple[list[Asked], str]:
    """The first ``limit`` questions and the digest of all that they hold.

    Raises `UserError` that names file and entry: no question, one that is asked twice, an empty one, an image that is not there.
    """
    if not found:
        raise UserError(f"{source}: holds no question of split {split}; choose another file or split.")
    places: dict[str, str] = {}
    for one in found:
        if one.example.key in places:
            raise UserError(f"{one.where}: question {one.example.key} stands at {places[one.example.key]} too; list it once.")
        if not one.example.question.strip():
            raise UserError(f"{one.where}: the question is empty.")
        if "<image>" in one.example.question:
            raise UserError(f"{one.where}: the question holds <image>, whose place each model's prompt knows; take it out.")
        places[one.example.key] = one.where
    taken = files.first(found, limit)
    seen: dict[Path, bool] = {}
    absent = [one for one in taken if not seen.setdefault(one.example.image, one.example.image.is_file())]
    if absent:
        first, more = absent[0], len(absent) - 1
        others = f" (nor that of {counted(more, 'more question')})" if more else ""
        raise UserError(
            f"{first.where}: its image {first.example.image} is not there{others}; give the folder with dataset.images=DIR, or "
            f"take the {'questions' if more else 'question'} out."
        )
    examples = [one.example for one in taken]
    return examples, files.digest(split, examples)


def answers(entry: Entry, name: str = "answers", *, people: bool = False) -> tuple[str, ...]:
    """The accepted answers: texts or numbers, each in a field ``answer`` perhaps (VQAv2 and VizWiz), or one of them alone.

    Raises `UserError` for none; with ``people`` for other than 10.
    """
    value = entry.fields.get(name)
    listed = [one.get("answer") if isinstance(one, Mapping) else one for one in (value if isinstance(value, list) else [value])]
    told = tuple(str(one) for one in listed if is_text(one) or is_number(one))
    if not told or len(told) < len(listed):
        raise entry.wrong(name, "an answer, or a list of answers,") if value is not None else _missing(entry, name)
    if not any(one.strip() for one in told):  # as of a split whose answers are not published
        raise UserError(f"{entry.where}: {name} are empty; give what is accepted, or take the question out.")
    if people and len(told) != PEOPLE:
        raise UserError(f"{entry.where}: {name} are {len(told)}; this accuracy is of the answers of {PEOPLE} people.")
    return told


def _missing(entry: Entry, name: str) -> UserError:
    return UserError(f"{entry.where}: {name} is missing; it holds {', '.join(map(str, list(entry.fields)[:6])) or 'nothing'}.")


def listed(source: Path, name: str | None = None) -> list[Entry]:
    """The entries of a JSON file that holds a list, or with ``name`` an object with that list."""
    content = files.read_json(source)
    if name is not None:
        content = content.get(name) if isinstance(content, Mapping) else None
    where = f"{source}: {name}" if name else str(source)
    if not isinstance(content, list):
        raise UserError(f"{where} is no list; give another file with dataset.questions=PATH.")
    return [_entry(one, f"{where}[{place}]") for place, one in enumerate(content)]


def mapped(source: Path) -> list[tuple[str, Entry]]:
    """The entries of a JSON file that holds an object of id -> entry."""
    content = files.read_json(source)
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: is no object of entries by id; give another file with dataset.questions=PATH.")
    return [(str(key), _entry(one, f"{source}: {key}")) for key, one in content.items()]


def objects(source: Path) -> list[Entry]:
    """The entries of a file of JSON: a list, or an object a line."""
    return listed(source) if files.read_text(source).lstrip()[:1] == "[" else lines(source)


def lines(source: Path) -> list[Entry]:
    """The entries of a JSONL file; empty lines are none. Raises `UserError` with file and line for what is no object."""
    refuse_mistaken(source)
    try:
        texts = regular(source).read_text(encoding="utf-8-sig").split("\n")  # JSON may hold what str.splitlines takes for an end
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as text in UTF-8 ({error}); save it so, or fetch it again.") from error
    found = []
    for number, text in enumerate(texts, 1):
        if text.strip():
            try:
                found.append(_entry(files.parsed(text), f"{source}, line {number}"))
            except (ValueError, RecursionError) as error:
                whole = text.strip() in ("{", "[")  # a value over several lines
                mend = "give an object in each line, or a list of them" if whole else "mend that line, or fetch the file again"
                raise UserError(f"{source}, line {number}: not JSON ({error}); {mend}.") from error
    return found


def _entry(value: Any, where: str) -> Entry:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {ascii(value)[:60]} is no entry with named fields.")
    return Entry(value, where)


def with_number(key: str) -> int | str:
    """An id as the official files have it: a number where it is written as one; "007" is none, which would become that of "7"."""
    return int(key) if key.isascii() and key.isdigit() and str(int(key)) == key else key
