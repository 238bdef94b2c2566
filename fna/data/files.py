"""What every reader needs: folders that are there, JSON that is JSON, images that exist, a digest of it all."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from fna.data import contents
from fna.data.places import composed
from fna.errors import UserError
from fna.mistaken import refuse_mistaken
from fna.records import is_head, refuse_csv, regular

UNREADABLE = (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError)  # what damaged or hostile pictures raise


# what holds pictures in one file, as shards for training and data hubs have it
ARCHIVES = frozenset({".tar", ".tgz", ".zip", ".7z", ".rar", ".parquet", ".arrow", ".tfrecord", ".mdb"})


NAMED = 25_000  # classes: more than the largest heads tell apart (ImageNet-21k, 21,843)
DICTIONARY = 10  # times as many lines as there are classes on disk: a dictionary


def check_folder(path: Path, knob: str = "dataset.root") -> None:
    """Raise `UserError` unless ``path`` is a folder."""
    if not path.is_dir():
        refuse_file(path, knob)
        raise UserError(f"{knob}={path}: no such folder (looked from {Path.cwd()}); give the place of the data with {knob}=PATH.")


def refuse_file(path: Path, knob: str = "dataset.root") -> None:
    """Raise `UserError` for a file where a folder is needed: an archive, a picture."""
    if path.is_file():
        packed = "; unpack it" * is_packed(path)
        raise UserError(f"{knob}={path}: a file, no folder{packed}; give the folder of the data with {knob}=PATH.")


def is_packed(path: Path) -> bool:
    """Whether the name is one of a file that holds other files."""
    return path.suffix.lower() in ARCHIVES or Path(path.stem).suffix.lower() == ".tar"  # data.tar.gz


def check_file(path: Path, knob: str = "dataset.annotations") -> None:
    """Raise `UserError` unless ``path`` is a file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give its place with {knob}=PATH.")


def read_text(path: Path) -> str:
    """A file of text. Raises `UserError` where it is none in UTF-8."""
    check_file(path)
    refuse_mistaken(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8 ({error}); save it so, or fetch it again.") from error


def read_json(path: Path) -> Any:
    """A JSON file. Raises `UserError` with file, line and column where it is not JSON."""
    check_file(path)
    refuse_mistaken(path)
    try:
        return parsed(path.read_text(encoding="utf-8-sig"))  # tools on Windows begin a file with a mark
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not JSON at line {error.lineno}, column {error.colno} ({error.msg}); mend it there, or fetch it again."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not JSON: no UTF-8 at byte {error.start}; save it so, or fetch it again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); mend it, or fetch it again.") from error


def parsed(text: str) -> Any:
    """What JSON says. Raises `ValueError` for what is none, and for a key that an object has twice: Python would take the last."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {ascii(twice)[:60]} stands twice in one object; keep one")
    return found


FIT = "give the folder that holds them (dataset.root=DIR, or dataset.images=DIR in it), or annotations that fit it"


def digest(split: str, examples: Sequence[Any], *, besides: Sequence[str] = (), mend: str = FIT) -> str:
    """sha256 of the split's name, of ``besides`` and, for every example, of its fields, with files by what they hold.

    Raises `UserError` where an annotated file is not there: how many, which comes first, and how to ``mend`` that.
    """
    files = [value for example in examples for value in _values(example) if isinstance(value, Path)]
    absent = [file for file in dict.fromkeys(files) if not os.path.exists(file)]
    dangling = [file for file in absent if os.path.islink(file)]
    if dangling:
        raise UserError(
            f"{len(dangling)} of the files are links to what is not there, {dangling[0]} to {os.readlink(dangling[0])} first; "
            "bring back what they link to, or remove the links."
        )
    if absent:
        are = "is" if len(absent) == 1 else "are"
        raise UserError(
            f"{len(absent)} of the annotated files {are} not there, {absent[0].name} in {absent[0].parent} first; {mend}."
        )
    held = contents.sha256s(files)
    total = hashlib.sha256(json.dumps([split, *besides]).encode())
    for example in examples:
        total.update(json.dumps([held[value] if isinstance(value, Path) else value for value in _values(example)]).encode())
    return total.hexdigest()


def _values(example: Any) -> list[Any]:
    return [getattr(example, field.name) for field in fields(example)]


def first(items: Iterable[Any], limit: int | None) -> list[Any]:
    """The first ``limit`` items, all for None."""
    taken = list(items)
    return taken if limit is None else taken[:limit]


def classes_of(path: str, found: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Class ids and names of a list for the classes ``found`` on disk, and what to note of it.

    A head line is left out. So is what is not there of a list that names far more than any model tells apart (WordNet's 82,115
    nouns, which come with Tiny-ImageNet as words.txt); of others it stays, for a head has a row for each. Raises as `read_classes`.
    """
    ids, names = read_classes(path)
    notes, there = [], {composed(name) for name in found}
    if len(ids) > 1 and ids[0] not in found and is_head(ids[0], names[0]):
        said = " ".join(dict.fromkeys([ids[0], names[0]]))
        notes.append(f"{path}: its first line ({said}) is read as a head line, not as a class")
        ids, names = ids[1:], names[1:]
    kept = [(ident, name) for ident, name in zip(ids, names, strict=True) if composed(ident) in there]
    if kept and len(ids) > max(NAMED, DICTIONARY * len(found)):
        notes.append(f"{path}: of its {len(ids):,} lines those of the {len(kept):,} classes that are here are taken")
        ids, names = [ident for ident, _ in kept], [name for _, name in kept]
    return ids, names, notes


def read_classes(path: str) -> tuple[list[str], list[str]]:
    """Class ids and names of a TSV (id, name) in the order of its lines; a line without a name is named by its id.

    Raises `UserError` for a missing or empty file, an id that stands there twice or is empty, and an empty name.
    """
    refuse_mistaken(Path(path))
    try:
        with regular(Path(path)).open(encoding="utf-8-sig", newline="") as file:  # tools on Windows begin a file with a mark
            rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read as a list of classes ({error}); give a TSV of class id and name with dataset.classes=PATH."
        ) from error
    refuse_csv(["\t".join(row) for row in rows], path)
    ids = [row[0] for row in rows]
    names = [row[1] if len(row) > 1 else row[0] for row in rows]
    twice = sorted(name for name, times in Counter(ids).items() if times > 1)
    if twice or not ids:
        raise UserError(f"{path}: " + (f"class {twice[0]} stands there twice." if twice else "holds no class."))
    unnamed = next(
        (place for place, (ident, name) in enumerate(zip(ids, names, strict=True)) if not (ident and name.strip())), None
    )
    if unnamed is not None:
        raise UserError(f"{path}: class {ids[unnamed] or unnamed} has no {'name' if ids[unnamed] else 'id'}; give each class both.")
    return ids, names
