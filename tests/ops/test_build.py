"""Compiling the CPU kernels: once, whole or not at all, and one sentence where it cannot be done."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fna.ops.kernels import build, cpu


def _has_compiler() -> bool:
    try:
        build._compiler()
    except build.NotBuilt:
        return False
    return True


needs_compiler = pytest.mark.skipif(not _has_compiler(), reason="no C++ compiler on this machine")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_compiler
@pytest.mark.parametrize(
    ("said", "wanted"), [("0", False), ("no", False), ("Off", False), ("false", False), ("1", True), ("", True)]
)
def test_the_kernels_can_be_declined_in_any_of_yamls_words(said: str, wanted: bool) -> None:
    assert cpu.asked_for(said) == wanted


def test_built_once(cache: Path) -> None:
    build.library()
    (made,) = cache.iterdir()
    stamp = made.stat().st_mtime_ns
    build.library()
    assert [made.stat().st_mtime_ns] == [file.stat().st_mtime_ns for file in cache.iterdir()]
    assert made.stat().st_mtime_ns == stamp


@needs_compiler
def test_two_at_once_leave_one_library(cache: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for library in pool.map(lambda _: build.library(), range(2)):
            assert library.fna_newton_scratch
    assert len(list(cache.iterdir())) == 1


@needs_compiler
def test_another_source_or_flag_is_another_library(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.library()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DUNUSED"))
    build.library()
    copy = Path(shutil.copytree(build.SOURCES, tmp_path / "cpp"))
    with (copy / "vectors.hpp").open("a") as file:
        file.write("// changed\n")
    monkeypatch.setattr(build, "SOURCES", copy)
    build.library()
    assert len(list(cache.iterdir())) == 3


@needs_compiler
def test_a_failed_build_says_why_and_leaves_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(build.SOURCES, tmp_path / "cpp"))
    (copy / "newton.cpp").write_text("this is not C++\n")
    monkeypatch.setattr(build, "SOURCES", copy)
    with pytest.raises(build.NotBuilt, match=r"failed: .*newton.cpp.*error"):
        build.library()
    assert list(cache.iterdir()) == []


@needs_compiler
def test_a_damaged_library_is_built_anew_and_never_loaded(cache: Path) -> None:
    build.library()
    (made,) = cache.iterdir()
    whole = made.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", b"half", whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        made.unlink()  # not written over: this process has it mapped
        made.write_bytes(damaged)
        assert build.library().fna_newton_scratch
        (again,) = cache.iterdir()
        assert again.read_bytes() == whole


@pytest.mark.skipif(not Path("/bin/false").exists(), reason="needs /bin/false")
def test_a_broken_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(build.NotBuilt, match="/bin/false failed"):
        build.library()


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "file"))
    with pytest.raises(build.NotBuilt, match="file: File exists"):
        build.library()


@needs_compiler
def test_a_compiler_with_words_of_its_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"env {build._compiler()[0]}")
    build.library()
    assert len(list(cache.iterdir())) == 1


def test_a_compiler_that_does_not_start(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cxx").write_text("no program\n")
    (tmp_path / "cxx").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "cxx"))
    with pytest.raises(build.NotBuilt, match="cxx: Exec format error"):
        build.library()


def test_words_for_a_compiler_that_no_shell_could_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", 'ccache "g++')
    with pytest.raises(build.NotBuilt, match=r'CXX=ccache "g\+\+ is no command'):
        build.library()


def test_no_compiler_means_the_plain_version_and_one_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    cpu._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not cpu.serves(torch.zeros(1))
            assert not cpu.serves(torch.zeros(1))
        assert [record.getMessage() for record in caplog.records] == [
            "fna: plain version instead of the CPU kernels: CXX=no-such-compiler is not a program."
        ]
        with pytest.raises(RuntimeError, match="ask `serves` first"):
            cpu.newton(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 6)
    finally:
        cpu._library.cache_clear()


def test_the_environment_can_ask_for_the_plain_version() -> None:
    code = "import torch; from fna.ops.kernels import cpu; print(cpu.serves(torch.zeros(1)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "FNA_CPU_KERNELS": "0"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
    assert done.stderr == ""
