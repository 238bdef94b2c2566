"""CSV that a spreadsheet shows as it is: text never runs as a formula, numbers stay numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what begins one, wide forms included


def defused(value: Any) -> Any:
    """A cell; text that a spreadsheet would take for a formula gets an apostrophe before it, as spreadsheets themselves mark text.

    Numbers, and text that is one ("-0.50"), stay as they are.
    """
    if not isinstance(value, str) or not value.lstrip(" \u00a0").startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with the union of their columns, in order of appearance; the last three columns stay last."""
    rows = [{defused(name): defused(value) for name, value in row.items()} for row in rows]
    last = ("skipped", "notes", "error")
    names = list(dict.fromkeys(name for row in rows for name in row if name not in last))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*names, *last], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
