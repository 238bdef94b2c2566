"""A list of classes in a file: which order the rows of a head, or the labels of a dataset, have."""

from __future__ import annotations

import csv

from fna.errors import UserError


def read_classes(path: str) -> tuple[list[str], list[str]]:
    """Class ids and names of a TSV (id, name) in the order of its lines; a line without a name is named by its id.

    Raises `UserError` for a missing or empty file and for an id that stands there twice.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of classes ({error}); give a TSV of class id and name.") from error
    ids = [row[0] for row in rows]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice or not ids:
        raise UserError(f"{path}: " + (f"class {twice[0]} stands there twice." if twice else "holds no class."))
    return ids, [row[1] if len(row) > 1 else row[0] for row in rows]
