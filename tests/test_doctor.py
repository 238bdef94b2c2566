"""``python -m fna.doctor``: the machine, the kernels, and which way each piece goes here."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna import doctor
from fna.ops.kernels import paths


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of one's own and shapes that take no time."""
    monkeypatch.setenv("FNA_CACHE", str(tmp_path))
    monkeypatch.delenv("FNA_CPU_PATH")
    monkeypatch.setattr(paths, "taken", {})
    monkeypatch.setattr(paths, "LEAST", 1)
    monkeypatch.setattr(doctor, "SHAPES", ((1, 2, 65, 8),))


def test_the_machine_and_every_way_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "processor", "C++ kernels", "few_queries float32", "few_keys bfloat16", "inverse     auto is ridge"):
        assert word in said
    assert paths.record_file().is_file()


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
    assert "every piece goes by fused" in capsys.readouterr().out
    monkeypatch.setenv("FNA_CPU_PATH", "quickest")
    assert doctor.main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1
