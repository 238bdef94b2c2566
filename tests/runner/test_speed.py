"""The benchmark: the yardstick is the method, the floors are right by hand, and a small run leaves all its files."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fna.errors import UserError
from fna.ops.contract import Site, Tokens
from fna.ops.kernels import cpu
from fna.ops.landmarks import sample_landmarks
from fna.ops.nystrom import FastNystrom, fast_nystrom
from fna.runner.speed import cpu_check, yardstick
from fna.runner.speed.check import at_least, at_most
from fna.runner.speed.cpu_check import cpu_checks
from fna.runner.speed.floors import Machine, Shape, attention_work, op_floor, stage_work
from fna.runner.speed.models import ModelCase, ValuePath
from fna.runner.speed.ops import Case, attentions, contenders, measure_case, measure_sampling, measure_stages
from fna.runner.speed.page import STAGES, crossover, write_page
from fna.runner.speed.turns import copies, in_turns

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
PLAIN = {"fna, plain torch"} if cpu.built() else set()


@pytest.mark.parametrize(("tokens", "landmarks"), [(65, 8), (200, 32), (300, 100)])
def test_same_landmarks_same_output_as_the_yardstick(tokens: int, landmarks: int) -> None:
    q, k, v = Case(batch=2, heads=3, tokens=tokens).inputs()[0]
    keep = (torch.arange(tokens) == 0).expand(2, -1)
    index = yardstick.sample(q.mean(1), landmarks, keep)
    ours = fast_nystrom(q, k, v, index, scale=64**-0.5)
    theirs = yardstick.attend(q, k, v, index)
    assert (ours - theirs).norm() / theirs.norm() < 2e-5


def test_yardstick_sampler_keeps_fills_and_orders() -> None:
    x = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    keep = torch.zeros(2, 50, dtype=torch.bool)
    keep[0, [3, 7]] = True
    keep[1, [0, 9]] = True
    index = yardstick.sample(x, 10, keep)
    assert index.shape == (2, 10)
    assert index[:, :2].tolist() == [[3, 7], [0, 9]]
    assert all(len(set(row)) == 10 for row in index.tolist())
    assert sample_landmarks(x, 10, keep=keep)[:, :2].tolist() == index[:, :2].tolist()


def test_yardstick_is_an_attention_that_draws_once() -> None:
    q, k, v = torch.randn(3, 1, 2, 40, 8)
    site = Site(scale=8**-0.5, tokens=Tokens(prefix=1))
    op = yardstick.Yardstick(6)
    assert torch.equal(op(q, k, v, site), op(q, k, v, site))
    assert site.memo["yardstick"].shape == (1, 6)
    assert torch.equal(ValuePath()(q, k, v, site), v)


def test_work_by_hand() -> None:
    shape = Shape(batch=2, heads=3, tokens=10, width=4, landmarks=5)
    assert attention_work(shape) == (4 * 6 * 100 * 4, 4 * 6 * 10 * 4 * 4)
    work = stage_work(shape)
    assert tuple(work) == (*STAGES[:3], "landmarks over tokens", "inverse", "tokens over landmarks")
    assert work["landmark block"][0] == 2 * 6 * 25 * 4
    assert work["inverse"][0] == 6 * (48 * 125 + 2 * 25 * 4)  # 24 products of M^3 and one with the summary
    assert work["landmarks over tokens"][0] == 4 * 6 * 10 * 5 * 4


def test_floor_is_the_larger_of_two() -> None:
    machine = Machine(gemm=100.0, copy=10.0)
    assert machine.floor(200, 10) == 2
    assert machine.floor(200, 50) == 5
    shape = Shape(1, 1, 10, 4, 5)
    assert op_floor(machine, shape) > op_floor(machine, shape, sampling=False) > 0


def test_crossover_is_where_it_wins_for_good() -> None:
    assert crossover([100, 200, 400], [0.5, 2, 3]) == pytest.approx(2**0.5 * 100)
    assert crossover([100, 200, 400, 800], [1.2, 0.5, 0.8, 1.25]) == pytest.approx(400 * 2**0.5)
    assert crossover([100, 200], [0.5, 0.9]) is None
    assert crossover([200, 100], [3.0, 2.0]) == 100


def test_turns_rotate_order_and_inputs() -> None:
    seen: list[tuple[str, int]] = []
    work = {name: lambda turn, name=name: seen.append((name, turn)) for name in "ab"}
    seconds = in_turns(work, 4, CPU, warm_up=1)  # type: ignore[arg-type]
    assert {name: values.shape for name, values in seconds.items()} == {"a": (4,), "b": (4,)}
    assert [name for name, _ in seen] == list("abbaabbaab")
    assert copies(1 << 20, CPU) == 8
    assert copies(1 << 30, CPU) == 2


def test_checks_compare_medians() -> None:
    row = {"speedup": 4.1, "low": 3.9, "high": 4.3}
    assert at_least("x", row, 4).holds
    assert not at_least("x", row, 4.2).holds
    assert at_most("x", 1.0, 1.0).holds
    assert "FAILS" in at_most("x", 1.1, 1.0).line()


def test_checks_know_their_parts() -> None:
    assert cpu_checks(1, print, []) == ([], [])
    with pytest.raises(UserError, match=r"vit_x: choose from operation, grid, vit_b, vit_l, clip_shapes, dinov2_s"):
        cpu_checks(1, print, ["vit_x"])
    with pytest.raises(UserError, match=r"float8: choose from float32, bfloat16"):
        cpu_checks(1, print, [], dtypes=["float8"])


def test_promises_are_measured_in_both_dtypes_and_the_worst_cell_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"float32": ((1, 65, 8, 1.0),), "bfloat16": ((1, 65, 8, 1.0), (1, 300, 128, 1.0))}
    monkeypatch.setattr(cpu_check, "OPERATION", small)
    monkeypatch.setattr(cpu_check, "SAMPLING", ((65, 8, 1.0),))
    monkeypatch.setattr(cpu_check, "GRID", {"tokens": (65, 90), "landmarks": (8,), "batch": (1,)})
    monkeypatch.setattr(cpu_check, "measure_machine", lambda *_: Machine(1e11, 1e10))
    monkeypatch.setattr(cpu_check, "_linear_memory", lambda: at_most("memory", 1.0, 1.1))
    findings, rows = cpu_checks(2, print, ["operation", "grid"])
    said = [finding.line() for finding in findings]
    assert sum("sampling and op, times fused attention" in line for line in said) == 3
    assert any("m=128, inverse=auto" in line for line in said)
    assert sum("the slowest of 2 cells (N=" in line for line in said) == 2
    assert {row["dtype"] for row in rows if row["kind"] in ("op", "grid")} == {"float32", "bfloat16"}


def test_without_products_of_bfloat16_its_promises_are_held_against_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_check, "has_bfloat16", lambda: False)
    monkeypatch.setattr(cpu_check, "OPERATION", {"bfloat16": ((1, 65, 8, 1.0),)})
    monkeypatch.setattr(cpu_check, "SAMPLING", ())
    monkeypatch.setattr(cpu_check, "measure_machine", lambda *_: Machine(1e11, 1e10))
    monkeypatch.setattr(cpu_check, "_linear_memory", lambda: at_most("memory", 1.0, 1.1))
    lines: list[str] = []
    _, rows = cpu_checks(2, lines.append, ["operation"], dtypes=["bfloat16"])
    assert "no products of bfloat16" in lines[0]
    assert next(row for row in rows if row["method"] == "fna")["low"] != 0  # NaN: two runs are no pairs


def test_a_whole_model_is_told_beside_attention_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ModelCase("clip_shapes", 64, 1, landmarks=8)
    monkeypatch.setattr(cpu_check, "TIMES", {"clip_shapes": (small, {"last-half": 0.01, "all": 1e9})})
    lines: list[str] = []
    findings, rows = cpu_checks(2, lines.append, ["clip_shapes"])
    assert [finding.holds for finding in findings] == [True, False]
    assert [row["method"] for row in rows] == ["full", "fna", "exact", "no attention", "fna, layers apart"] * 2
    assert min(row["speedup"] for row in rows[:4] if row["method"] in ("full", "exact")) <= 1.01  # the faster of the two is 1
    for other in ("with no attention", "with fna, layers apart"):
        assert sum(other in line for line in lines) == 2


def test_one_case_gives_every_row(tmp_path: Path) -> None:
    case, machine = Case(batch=1, heads=2, tokens=65, width=16, landmarks=8), Machine(1e11, 1e10)
    names = ["exact", "fna"]
    work = contenders(case, case.inputs(), attentions(names, case.landmarks))
    assert {"sdpa", "yardstick", "exact", "fna", "fna, landmarks given"} | PLAIN == set(work)
    rows = measure_case(case, names, machine, 3) + measure_stages(case, machine, 3) + measure_sampling(case, 3)
    fna = next(row for row in rows if row["method"] == "fna")
    assert fna["low"] <= fna["speedup"] <= fna["high"]
    assert fna["over_floor"] == pytest.approx(fna["ms"] / fna["floor_ms"])
    stages = {row["method"]: row for row in rows if row["kind"] == "stage"}
    assert set(stages) == ({"sampling", "kernels"} if cpu.built() else set(STAGES) - {"kernels"})
    assert all(row["over_floor"] == pytest.approx(row["ms"] / row["floor_ms"]) for row in stages.values())
    page = write_page(tmp_path, rows, [at_most("x", 2.0, 1.0)], {"cpu": machine}, {"torch": "2"})
    assert "FAILS" in page.read_text()
    assert (tmp_path / "op.png").stat().st_size > 5000
    with (tmp_path / "bench.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == len(rows)


def test_memory_is_linear_in_tokens_and_near_fused_attention() -> None:
    from fna.runner.memory import peak_bytes

    peaks = {}
    for tokens in (4096, 65536):
        q, k, v = torch.randn(3, 1, 1, tokens, 32)
        op, site = FastNystrom(landmarks=32), Site(scale=0.2, tokens=Tokens(prefix=1))
        with torch.inference_mode():
            peaks[tokens] = peak_bytes(lambda op=op, q=q, k=k, v=v, site=site: op(q, k, v, site), CPU)  # type: ignore[misc]
    assert peaks[65536] < 17 * peaks[4096]
    assert peaks[65536] < 96 << 20  # one N x N float32 map would be 16 GiB


@pytest.mark.slow
def test_script_runs(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/bench.py", "--tokens", "65", "--heads", "2", "--width", "16", "--landmarks", "8"]
    command += ["--attn", "exact,fna", "--models", "vit_ti:224:1", "--layers", "all", "--rounds", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "bench.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    model = {row["method"]: row for row in rows if row["kind"] == "model"}
    assert set(model) == {"full", "exact", "fna", "yardstick", "no attention"} | PLAIN
    assert np.isfinite(float(model["fna"]["realised"]))
    assert (tmp_path / "bench.html").is_file()
