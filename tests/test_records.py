"""Small records: found whole under their own name, or missing; and one process at a time makes a thing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fna import progress
from fna.errors import UserError
from fna.records import make_way, only_one, read_record, write_atomic, write_record

ROOT = Path(__file__).resolve().parent.parent
CONTENT = {"threshold": 1.5, "found": {3: [1, 2]}, "why": ["größer", None, True], "not": float("nan")}


def test_a_record_comes_back_as_json_has_it(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", CONTENT)
    found = read_record(tmp_path / "a.json")
    assert found is not None
    assert found["found"] == {"3": [1, 2]}
    assert found["why"] == CONTENT["why"]
    assert json.loads((tmp_path / "a.json").read_text())["threshold"] == 1.5


def test_a_record_with_any_byte_changed_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_record(file, CONTENT)
    whole = file.read_bytes()
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            assert read_record(file) is None, (place, flip)
        file.write_bytes(whole[:place])
        assert read_record(file) is None, place


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b'{"sealed_with": 3}', b"[" * 100_000, b"\xff\xfe", b" " * 10])
def test_what_is_no_record_is_missing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_record(tmp_path / "a.json") is None


def test_a_record_under_another_name_is_missing(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", CONTENT)
    (tmp_path / "b.json").write_bytes((tmp_path / "a.json").read_bytes())
    assert read_record(tmp_path / "b.json") is None


def test_a_folder_in_the_place_of_a_record_is_moved_aside(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    (file / "kept").mkdir(parents=True)
    assert read_record(file) is None
    write_record(file, CONTENT)
    assert read_record(file) is not None
    assert [folder.name for folder in tmp_path.glob("a.json.moved-*/*")] == ["kept"]
    make_way(file)
    assert read_record(file) is not None


def test_a_full_disk_is_one_line_with_the_path_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomic(tmp_path / "a", b"old")
    for call in ("fsync", "replace", "chmod"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(UserError, match=r"a: cannot be written \(No space left on device\); free some room there"):
                write_atomic(tmp_path / "a", b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"old")]


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A file system of this size, or a skip."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        write_atomic(disk / "a", b"old")
        with pytest.raises(UserError, match=r"a: cannot be written .No space left on device"):
            write_atomic(disk / "a", bytes(2 << 20))
        assert [(file.name, file.read_bytes()) for file in disk.iterdir()] == [("a", b"old")]


HOLDS = """
import sys, time
from pathlib import Path
from fna.records import only_one
with only_one(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def holder(file: Path) -> Any:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path / "row.json") as process:
        told: list[float] = []

        def waiting(sentence: str) -> None:
            assert sentence.startswith(f"{tmp_path / 'row.json'}: another process is making it, waiting; if one was suspended")
            told.append(time.monotonic())
            os.kill(process.pid, signal.SIGKILL)

        monkeypatch.setattr(progress, "say", waiting)
        with only_one(tmp_path / "row.json"):
            assert len(told) == 1
            assert time.monotonic() - told[0] < 20
    monkeypatch.setattr(progress, "say", lambda sentence: pytest.fail("nobody holds it"))
    with only_one(tmp_path / "row.json"):
        pass


def test_where_no_lock_can_be_had_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / ".row.json.lock").mkdir()
    with only_one(tmp_path / "row.json"):
        pass
