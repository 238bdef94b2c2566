"""Data sets are known by what their files hold; what was read once is remembered, and never believed when damaged."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from fna.data import contents
from fna.data.contents import UNREADABLE, sha256s
from fna.data.imagefolder import ImageFolder
from fna.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, in which files are remembered however young they are."""
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "SETTLED", -1)
    return tmp_path / "cache" / "contents"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of two files, of 9 bytes each."""
    for name in ("val/cat/1.bmp", "val/cat/2.bmp", "val/dog/1.bmp", "val/dog/2.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name[-9:])
    return tmp_path


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read from now on."""
    seen: list[Path] = []
    read = contents._sha256
    monkeypatch.setattr(contents, "_sha256", lambda path: [seen.append(path), read(path)][1])
    return seen


def digest(data: Path, limit: int | None = None) -> str:
    return ImageFolder(str(data)).load(limit).digest


def test_other_bytes_of_the_same_name_and_size_are_another_data_set(data: Path) -> None:
    before = digest(data)
    assert digest(data) == before
    (data / "val/dog/2.bmp").write_text("dog/2.BMP")
    assert digest(data) != before
    (data / "val/dog/2.bmp").write_text("dog/2.bmp")
    assert digest(data) == before


def test_even_with_its_old_time_set_back(data: Path) -> None:
    before, times = digest(data), os.stat(data / "val/dog/2.bmp")
    (data / "val/dog/2.bmp").write_text("dog/2.BMP")
    os.utime(data / "val/dog/2.bmp", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest(data) != before


def test_a_file_is_read_once_and_only_if_it_is_used(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = reads(monkeypatch)
    first = digest(data, 1)
    assert [path.name for path in seen] == ["1.bmp"]
    digest(data)
    assert len(seen) == 4
    assert digest(data, 1) == first
    assert len(seen) == 4


def test_a_file_just_written_is_not_remembered_yet(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one tick of the clock it may change again and show the same time."""
    monkeypatch.setattr(contents, "SETTLED", 60)
    seen = reads(monkeypatch)
    digest(data)
    digest(data)
    assert len(seen) == 8


def test_a_remembered_digest_damaged_at_any_byte_is_made_again(data: Path, cache: Path) -> None:
    before = digest(data, 1)
    (store,) = cache.iterdir()
    whole = store.read_bytes()
    for place in range(len(whole)):
        store.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert digest(data, 1) == before
        assert store.read_bytes() == whole
    for length in range(0, len(whole), 7):
        store.write_bytes(whole[:length])
        assert digest(data, 1) == before


@pytest.mark.parametrize("text", [b'["x"]', b'{"1.bmp": 3}', b'{"1.bmp": [1, 2]}'])
def test_what_has_another_form_is_made_again(text: bytes, data: Path, cache: Path) -> None:
    before = digest(data, 1)
    (store,) = cache.iterdir()
    store.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    assert digest(data, 1) == before


def test_a_store_that_cannot_be_kept_costs_nothing_else(data: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file in the folder's place")
    before = digest(data)
    cache.unlink()
    assert digest(data) == before
    for store in list(cache.iterdir()):
        store.unlink()
        store.mkdir()
    assert digest(data) == before


def test_several_at_once_agree(data: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_what_is_there_and_cannot_be_read_is_no_error_here(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    paths = [tmp_path / "folder.png", tmp_path / "pipe.png"]
    assert sha256s(paths) == dict.fromkeys(paths, UNREADABLE)


def test_a_link_to_nothing_is_named_with_what_it_links_to(data: Path) -> None:
    os.symlink(data / "nowhere", data / "val/cat/3.bmp")
    with pytest.raises(UserError, match=r"1 of the files are links to what is not there, .*3\.bmp to .*nowhere first; bring"):
        digest(data)
