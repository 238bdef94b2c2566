"""Which way a piece goes: the same numbers by all of them, timed once, remembered, made again when damaged, pinned by a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fna.configs import build_attention
from fna.errors import UserError
from fna.ops import short
from fna.ops.contract import Site
from fna.ops.kernels import cpu, paths
from tests.ops.reference import softmax_attention


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of one's own, nothing measured yet, tiny shapes worth a measurement."""
    monkeypatch.setenv("FNA_CACHE", str(tmp_path))
    monkeypatch.delenv("FNA_CPU_PATH", raising=False)
    monkeypatch.setattr(paths, "taken", {})
    monkeypatch.setattr(paths, "LEAST", 1)
    monkeypatch.setattr(paths, "ROWS", 1024)


def drawn(rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 2, rows, 16, generator=torch.Generator().manual_seed(rows)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_ways_give_the_same_to_rounding(dtype: torch.dtype) -> None:
    many, few = drawn(200, dtype), drawn(9, dtype)
    for q, k, ways in (
        (few, many, short._ways(short._kernel_of_few_queries, few, many, many, None, None)),
        (many, few, short._ways(short._kernel_of_few_keys, many, few, few, None, None)),
    ):
        expected = softmax_attention(q, k, k, 0.25)
        assert len(ways) == 2 + cpu.built()
        for go in ways.values():
            error = (go(q, k, k, 0.25).double() - expected).norm() / expected.norm()
            assert error < 4 * torch.finfo(dtype).eps


def test_a_class_of_shapes_is_timed_once_and_remembered() -> None:
    short.few_keys(drawn(200), drawn(9), drawn(9), 0.25, None)
    assert list(paths.taken) == ["few_keys float32 2 x 256 x 16 x 16" + ("" if cpu.built() else " without kernels")]
    stored = json.loads(paths.record_file().read_text())
    (line,) = stored["ways"].values()
    assert line["way"] in line["ms"]
    assert min(line["ms"].values()) > 0
    paths.taken.clear()
    before = paths.record_file().stat().st_mtime_ns
    short.few_keys(drawn(150), drawn(12), drawn(12), 0.25, None)  # the same class
    assert paths.taken
    assert paths.record_file().stat().st_mtime_ns == before


def test_a_damaged_record_is_made_again() -> None:
    short.few_keys(drawn(200), drawn(9), drawn(9), 0.25, None)
    paths.record_file().write_text(paths.record_file().read_text().replace("few_keys", "few_kees"))
    paths.taken.clear()
    short.few_keys(drawn(200), drawn(9), drawn(9), 0.25, None)
    assert [name.split()[0] for name in json.loads(paths.record_file().read_text())["ways"]] == ["few_keys"]


def test_a_cache_that_cannot_be_written_costs_a_measurement_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    ways = short._ways(short._kernel_of_few_keys, drawn(200), drawn(9), drawn(9), None, None)  # the kernels are built before
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "file"))
    assert paths.way("few_keys", drawn(200), drawn(9), ways) in ways


@pytest.mark.parametrize("way", paths.WAYS)
def test_the_way_can_be_pinned(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FNA_CPU_PATH", way)
    monkeypatch.setattr(paths, "timed", lambda *_: pytest.fail("timed although pinned"))
    q, k, v = drawn(200), drawn(200), drawn(200)
    out = build_attention("fna", landmarks=9)(q, k, v, Site(scale=0.25))
    monkeypatch.setenv("FNA_CPU_PATH", "fused")
    torch.testing.assert_close(out, build_attention("fna", landmarks=9)(q, k, v, Site(scale=0.25)), atol=1e-4, rtol=1e-3)


def test_a_pin_that_is_no_way_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FNA_CPU_PATH", "fastest")
    with pytest.raises(UserError, match="FNA_CPU_PATH=fastest: choose one of kernels, fused, products, absorbed") as refusal:
        short.few_keys(drawn(200), drawn(9), drawn(9), 0.25, None)
    assert "\n" not in str(refusal.value)


def test_a_measurement_shows_neither_in_the_flops_nor_in_the_random_numbers_of_whoever_asked() -> None:
    q, k, v = drawn(200), drawn(9), drawn(9)
    counts = []
    torch.manual_seed(0)
    for _ in range(2):  # timed in the first, not in the second
        with FlopCounterMode(display=False) as counter:
            short.few_keys(q, k, v, 0.25, None)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    drawn_after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn_after, torch.rand(1))


def test_another_way_is_taken_only_where_it_is_plainly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    many, few = drawn(200), drawn(9)
    ways = {"kernels": short.fused, "fused": short.fused}
    for seconds, expected in ((0.9, "kernels"), (0.5, "fused")):
        monkeypatch.setattr(paths, "timed", lambda *_, seconds=seconds: {"kernels": 1.0, "fused": seconds})
        paths.taken.clear()
        paths.record_file().unlink(missing_ok=True)
        assert paths.way("few_keys", many, few, ways) == expected


def test_a_measurement_that_fails_is_raised_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread of its own an error would be printed there, and its absence of figures kept for ever."""

    def fails(*_: object) -> dict[str, float]:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(paths, "timed", fails)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        paths.way("few_keys", drawn(200), drawn(9), {"kernels": short.fused, "fused": short.fused})
    assert not paths.taken
    assert not paths.record_file().exists()
