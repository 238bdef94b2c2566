"""Cost: turns that alternate, ratios per round, FLOPs with the fast path off, memory by live storages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fna.ops.kernels import cpu
from fna.runner import cost
from fna.runner.clocks import StageClock, TokenClock
from fna.runner.cost import Timed, measure
from fna.runner.flops import flops
from fna.runner.memory import peak_bytes
from fna.runner.turns import in_turns, median_ratio, share_inside, share_of_saving, stages

CPU = torch.device("cpu")
MIB = 2**20


def test_median_ratio_is_per_round() -> None:
    ratio = median_ratio(np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0, 4.0]))
    assert ratio == {"median": 2.0, "ci": [2.0, 2.0]}
    noisy = median_ratio(np.array([1.0, 2.0, 3.0]), np.ones(3))
    assert noisy["median"] == 2.0
    assert noisy["ci"][0] <= 2.0 <= noisy["ci"][1]


def test_share_of_saving_is_that_of_the_medians() -> None:
    full, slow_rounds = np.full(5, 10.0), np.array([1.0, 1.0, 1.0, 3.0, 2.0])
    share = share_of_saving(full * slow_rounds, 8.5 * slow_rounds, 8.0 * slow_rounds)
    assert share["median"] == pytest.approx(0.75)
    assert share["ci"] == pytest.approx([0.75, 0.75])


def test_share_of_a_saving_as_small_as_the_noise_is_not_pulled_towards_nothing() -> None:
    """10 % of a forward at 5 % noise: a median of the rounds' own shares gives .79 where .84 is true."""
    generator = np.random.default_rng(0)
    noisy = lambda seconds: seconds * np.exp(generator.normal(0, 0.05, 60))  # noqa: E731
    triples = [(noisy(1.0), noisy(1 - 0.84 * 0.1), noisy(0.9)) for _ in range(300)]
    shares = [share_of_saving(*triple, draws=1)["median"] for triple in triples]
    assert np.mean(shares) == pytest.approx(0.84, abs=0.025)
    intervals = [share_of_saving(*triple)["ci"] for triple in triples[:100]]
    assert 88 <= sum(low <= 0.84 <= high for low, high in intervals) <= 100


def test_turns_rotate_and_forget_the_warm_up() -> None:
    order: list[str] = []
    current = ""

    @contextmanager
    def variant(name: str):
        nonlocal current
        current = name
        yield

    def forward(images: torch.Tensor) -> torch.Tensor:
        order.append(current)
        return images

    seconds = in_turns(forward, {name: lambda name=name: variant(name) for name in "abc"}, torch.zeros(1), rounds=3)
    assert "".join(order) == "abcbcacababcbca"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_flops_see_multi_head_attention_behind_its_fast_path() -> None:
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    n, d = 50, 32
    counted = flops(lambda x: attention(x, x, x, need_weights=False)[0], torch.randn(2, n, d))
    assert counted == 2 * (8 * n * d * d + 4 * n * n * d)


def test_flops_see_the_choice_of_landmarks_and_the_solve() -> None:
    from fna.ops.contract import Site
    from fna.ops.nystrom import FastNystrom

    n, m, d = 100, 10, 8
    q, k, v = torch.randn(3, 1, 2, n, d)
    counted = {
        op.inverse: flops(lambda x, op=op: op(x, k, v, Site(scale=1.0)), q)
        for op in (FastNystrom(landmarks=m), FastNystrom(landmarks=m, inverse="exact"))
    }
    long_passes, block = 2 * 2 * (4 * n * m * d), 2 * (2 * m * m * d)
    choice = m * 2 * n * (d + 2)
    assert counted["exact"] == long_passes + block + choice + 2 * (2 * m**3 // 3 + 2 * m * m * d)
    assert counted["newton"] > long_passes + block + choice


def test_flops_see_the_kernels_for_a_gpu() -> None:
    from fna.ops.kernels import gpu
    from fna.runner.speed.floors import Shape, stage_work

    batch, heads, n, m, d = 2, 3, 100, 10, 8
    q = torch.empty(batch, heads, n, d, device="meta")
    index = torch.empty(batch, m, dtype=torch.int64, device="meta")
    work = stage_work(Shape(batch, heads, n, d, m))
    assert flops(lambda x: gpu.fast_nystrom(x, x, x, index, 1.0), q) == sum(need for need, _ in work.values())
    assert flops(lambda x: gpu.farthest_points(x, m, 1)[0], q[:, 0]) == 3 * batch * n * d * m


def test_peak_counts_what_lives_at_once() -> None:
    def chain() -> None:
        for _ in range(5):
            x = torch.zeros(MIB // 4)
            y = x.view(2, -1)
            y += 1
            z = x + 1
            del z

    assert peak_bytes(chain, CPU) == 2 * MIB
    if cpu.built():
        q, marks = torch.randn(1, 1, 1024, 64), torch.randn(1, 1, 64, 64)
        assert peak_bytes(lambda: cpu.few_keys(q, marks, marks, 1.0), CPU) > q.nbytes + 2 * marks.nbytes  # keys and values, packed
    q = torch.randn(1, 4, 1000, 16)
    fused = peak_bytes(lambda: nn.functional.scaled_dot_product_attention(q, q, q), CPU)
    explicit = peak_bytes(lambda: (q @ q.mT).softmax(-1) @ q, CPU)
    assert fused < 0.3 * MIB
    assert explicit > 30 * MIB


def test_stage_shares_sum_to_one() -> None:
    held: list[StageClock] = []

    @contextmanager
    def clocked(clock: StageClock):
        held[:] = [clock]
        yield

    def forward(images: torch.Tensor) -> torch.Tensor:
        with held[0]("sampling"):
            time.sleep(0.01)
        time.sleep(0.01)
        return images

    shares = stages(forward, clocked, torch.zeros(1), rounds=3)
    assert abs(sum(shares.values()) - 1) < 1e-6
    assert 0.3 < shares["sampling"] < 0.7


def test_measure_compares_with_the_faster_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    pause = 0.0

    @contextmanager
    def waits(seconds: float):
        nonlocal pause
        pause = seconds
        yield

    def forward(images: torch.Tensor) -> torch.Tensor:
        time.sleep(pause)
        return images @ images.mT

    def waiting(label: str, seconds: float) -> Any:
        """What `measure` needs of a variant."""
        return SimpleNamespace(label=label, ops={3: label}, on=lambda module, clock=None: waits(seconds))

    monkeypatch.setattr(cost, "FULL", waiting("full", 0.02))
    timed = [Timed(waiting("mine", 0.005), waiting("exact", 0.01)), Timed(waiting("slow", 0.02), waiting("exact", 0.01))]
    found, slow = measure(forward, nn.Identity(), timed, torch.randn(4, 8), rounds=5)
    assert 0.3 < slow["speedup"]["median"] < 0.8
    assert found["baseline"] == "exact"
    assert 1.3 < found["speedup"]["median"] < 2.5
    assert found["flops"] == {"full": 2 * 4 * 4 * 8 / 4, "variant": 2 * 4 * 4 * 8 / 4}
    assert set(found["images_per_second"]) == {"full", "exact", "variant"}


def test_the_first_token_and_further_ones_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, first, further = TokenClock(torch.device("cpu")), 0.0, 0.002

    @contextmanager
    def reads(seconds: float):
        nonlocal first
        first = seconds
        yield

    def forward(images: torch.Tensor) -> torch.Tensor:
        time.sleep(first)
        clock.told()
        for _ in range(3):
            time.sleep(further)
            clock.told()
        return images

    def reading(label: str, seconds: float) -> Any:
        return SimpleNamespace(label=label, ops={}, on=lambda module, clock=None: reads(seconds))

    monkeypatch.setattr(cost, "FULL", reading("full", 0.02))
    timed = [Timed(reading("half", 0.01), reading("exact", 0.02))]
    (found,) = measure(forward, nn.Identity(), timed, torch.randn(1, 8), rounds=5, tokens=clock)
    seconds = found["first_token"]["seconds"]
    assert seconds["full"] >= 0.02 > seconds["variant"] >= 0.01
    assert 1.5 < found["first_token"]["speedup"]["median"] < 2.5
    assert found["further_token"]["seconds"]["variant"] >= further
    assert 0.5 < found["further_token"]["speedup"]["median"] < 2


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    import platform

    from fna.runner.env import keep_freed_memory

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_share_inside_is_that_of_the_clocked_stages() -> None:
    """A variant whose stage sleeps a quarter as long as exact attention's: three quarters of what there is to save."""

    def clocked(stage: str, seconds: float) -> Any:
        @contextmanager
        def context(clock: StageClock) -> Iterator[None]:
            state["inside"] = (clock, stage, seconds)
            yield

        return context

    state: dict[str, Any] = {}

    def forward(images: torch.Tensor) -> torch.Tensor:
        clock, stage, seconds = state["inside"]
        with clock(stage):
            time.sleep(seconds)
        time.sleep(0.01)
        return images

    share = share_inside(forward, clocked("kernels", 0.01), clocked("attention", 0.04), torch.zeros(1), 5)
    assert share["median"] == pytest.approx(0.75, abs=0.08)
    assert share["ci"][0] <= share["median"] <= share["ci"][1]
