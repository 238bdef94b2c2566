"""``python -m fna.doctor``: the machine, the kernels, and which way each piece goes here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fna import doctor
from fna.ops.kernels import build, cpu, paths
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of one's own, but for the kernels, which take long to build, and shapes that take no time."""
    kept = build._cache()
    monkeypatch.setattr(build, "_cache", lambda: kept)
    monkeypatch.setenv("FNA_CACHE", str(tmp_path))
    monkeypatch.delenv("FNA_CPU_PATH", raising=False)
    monkeypatch.setattr(paths, "taken", {})
    monkeypatch.setattr(paths, "LEAST", 1)
    monkeypatch.setattr(doctor, "SHAPES", ((1, 2, 65, 8),))


def test_the_machine_and_every_way_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "processor", "C++ kernels", "few_queries float32", "few_keys bfloat16", "inverse     auto is ridge"):
        assert word in said
    assert paths.record_file().is_file()


@pytest.mark.parametrize(("pays", "said"), [(True, "multiplies bfloat16 itself\n"), (False, "itself, no faster than float32")])
def test_products_of_bfloat16_that_are_slower_than_floats_are_told(
    pays: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An Intel Xeon of model 207 has AVX512-BF16, half as fast as its products of float32: the kernels turn to these."""
    monkeypatch.setattr(doctor, "has_bfloat16", lambda: True)
    monkeypatch.setattr(cpu, "built", lambda: True)
    monkeypatch.setattr(cpu, "multiplies_pairs", lambda: pays)
    assert doctor.main([]) == 0
    assert said in capsys.readouterr().out


def test_products_of_bfloat16_are_taken_where_they_pay() -> None:
    """Measured once in a process; without kernels nothing is multiplied in them."""
    if cpu.built():
        assert cpu.multiplies_pairs() is cpu.multiplies_pairs()
    with cpu.without_kernels():
        assert not cpu.multiplies_pairs()


def test_shapes_that_runs_met_are_counted_and_told_where_all_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """A hundred lines of them hid the machine's own, and a long name ran into its way."""
    doctor.main([])
    long = f"few_queries float32 {'9' * 60} without kernels"
    paths._remember(long, "fused", {"fused": 0.002})
    capsys.readouterr()
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert long not in said
    assert "1 more shapes that runs met here: --all" in said
    assert doctor.main(["--all"]) == 0
    assert f"{long}  fused" in capsys.readouterr().out


def test_ways_are_timed_anew_when_asked() -> None:
    doctor.main([])
    before = paths.record_file().read_bytes()
    doctor.main([])
    assert paths.record_file().read_bytes() == before
    doctor.main(["--again"])
    assert paths.record_file().read_bytes() != before


def test_a_pin_is_told_and_a_wrong_one_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FNA_CPU_PATH", "fused")
    assert doctor.main([]) == 0
    assert "every piece that can go by fused does" in capsys.readouterr().out
    monkeypatch.setenv("FNA_CPU_PATH", "quickest")
    assert doctor.main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_pin_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FNA_CPU_PATH", "kernels")
    with cpu.without_kernels():
        assert doctor.main([]) == 1
    assert capsys.readouterr().err.startswith("error: FNA_CPU_PATH=kernels: there are none here")


def test_a_cache_that_cannot_be_written_is_told_and_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu.built()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "file"))
    with cpu.without_kernels():
        assert doctor.main([]) == 0
        said = capsys.readouterr().out
        assert "few_keys bfloat16" in said
        assert "not kept    " in said
        assert doctor.main(["--again"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_folder_in_the_place_of_what_is_kept_is_moved_aside() -> None:
    paths.record_file().mkdir()
    (paths.record_file() / "mine.txt").write_text("")
    assert doctor.main(["--again"]) == 0
    assert paths.record_file().is_file()


def test_a_reader_that_goes_away_is_no_error() -> None:
    """``python -m fna.doctor | true``, with and without something to say."""
    for words in (["fna.doctor", "--help"], ["fna.models"], ["fna.metrics", "--help"], ["fna.judge", "--help"]):
        with subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as program:
            assert program.stdout is not None
            program.stdout.close()
            assert program.stderr is not None
            assert program.stderr.read() == b""
        assert program.returncode == 0
