"""Pipes, which would be waited for, and devices, which never end, where a file is asked for: one line, or missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fna.data.asked import lines
from fna.data.contents import sha256s
from fna.errors import UserError
from fna.judge.ledger import Ledger
from fna.metrics.__main__ import scored
from fna.models.heads import read_classes
from fna.models.hf_files import read_json
from fna.records import file_digest, kept, read_record
from fna.report import results
from fna.report.csv_logger import CsvLogger
from fna.report.expected import read_figures
from tests.report.made_up_results import failed

WHAT = "a pipe or a device, no file"
READERS: dict[str, Callable[[Path], Any]] = {
    "model.classes": lambda path: read_classes(str(path)),
    "expected": lambda path: read_figures(str(path)),
    "config.json": read_json,
    "questions": lines,
    "predictions": scored,
    "judgements": lambda path: Ledger(path, "name"),
    "log.csv": lambda path: CsvLogger(path.name).log(failed("x"), {}, path.parent),
}


@pytest.fixture(params=["pipe", "device"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "odd.csv"
    os.mkfifo(path) if request.param == "pipe" else path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_told_as_such_and_not_read(name: str, odd: Path) -> None:
    with pytest.raises(UserError, match=WHAT):
        READERS[name](odd)


def test_in_the_place_of_what_is_kept_it_is_missing_and_made_again(odd: Path) -> None:
    assert read_record(odd) is None
    assert kept(odd, lambda: {"a": 1}) == {"a": 1}
    assert read_record(odd) == {"a": 1}


def test_it_has_no_digest(odd: Path) -> None:
    with pytest.raises(OSError, match=WHAT):
        file_digest(odd)
    assert sha256s([odd])[odd] == "unreadable"


def test_a_report_shows_that_it_cannot_be_read(odd: Path) -> None:
    found = results.read(odd.rename(odd.with_name("result.json")))
    assert found["status"] == "broken"
    assert WHAT in found["error"]
