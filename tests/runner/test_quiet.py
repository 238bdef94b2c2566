"""Whether a timing is a measurement: made-up rounds, made-up loads, and a machine kept busy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fna.runner import quiet
from fna.runner.quiet import Load, Watch, judge
from fna.values import counted

IDLE = Load(others=0.05, cores=2, threads=2)
BUSY = Load(others=1.02, cores=2, threads=2)
SPIN = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


def rounds(ratio: float, count: int = 15, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of a baseline and of a variant that is ``ratio`` times as fast."""
    rng = np.random.default_rng(1)
    variant = 0.1 * (1 + noise * rng.standard_normal(count))
    return ratio * 0.1 * (1 + noise * rng.standard_normal(count)), variant


def test_even_rounds_on_an_idle_machine_are_a_measurement() -> None:
    verdict = judge(*rounds(1.29), IDLE)
    assert verdict["quiet"]
    assert verdict["reasons"] == []
    assert verdict["halves"] == pytest.approx([1.29, 1.29], rel=0.03)


def test_the_narrowest_interval_is_no_measurement_where_another_process_had_the_cores() -> None:
    verdict = judge(*rounds(0.91, noise=0.0), BUSY)
    assert not verdict["quiet"]
    assert verdict["reasons"] == ["other processes took 1.0 of 2 cores while 2 were needed"]
    assert verdict["load"] == {"others": 1.02, "cores": 2, "threads": 2, "source": "/proc/stat"}


def test_halves_that_tell_two_stories_are_no_measurement() -> None:
    baseline, variant = rounds(1.29)
    baseline[7:] *= 0.7  # somebody else came in the middle
    verdict = judge(baseline, variant, IDLE)
    assert not verdict["quiet"]
    assert verdict["reasons"][0].startswith("the first half of the rounds gives 1.2")


def test_one_slow_round_is_what_the_median_is_for() -> None:
    baseline, variant = rounds(1.29)
    variant[3] *= 5
    assert judge(baseline, variant, IDLE)["quiet"]


def test_wide_noise_that_is_the_same_throughout_is_told_by_the_interval() -> None:
    baseline, variant = rounds(1.0, count=40, noise=0.15)
    assert judge(baseline, variant, IDLE)["quiet"]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_too_few_rounds_have_no_halves_and_are_no_measurement(count: int) -> None:
    """One round has an interval of no width, which would pass for certainty."""
    verdict = judge(*rounds(1.2, count=count), IDLE)
    assert verdict["halves"] is None
    assert verdict["reasons"] == [f"{counted(count, 'round')} are too few to be held against each other (6 are enough)"]


@pytest.mark.parametrize(
    ("others", "cores", "threads", "crowded"),
    [
        (1.0, 2, 1, False),  # the other core is free
        (1.0, 2, 2, True),
        (0.2, 2, 2, False),  # the desktop breathes
        (3.0, 64, 32, False),
        (40.0, 64, 32, True),
        (0.9, 1, 1, True),
        (None, 2, 2, False),  # nothing is known: nothing is claimed
    ],
)
def test_others_matter_where_our_threads_lack_cores(others: float | None, cores: int, threads: int, crowded: bool) -> None:
    assert Load(others, cores, threads).crowded is crowded


def test_only_the_cores_that_we_may_use_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  600 0 0 0 0 0 0 0 0 0\ncpu0 100 10 5 9000 77 1 2 3 0 0\ncpu1 500 0 0 0 0 0 0 0 0 0\nintr 1 2 3\n")
    monkeypatch.setattr(quiet, "STAT", stat)
    monkeypatch.setattr(quiet.os, "sysconf", lambda name: 100)
    assert quiet.busy_seconds((0,)) == pytest.approx(1.21)
    assert quiet.busy_seconds((0, 1)) == pytest.approx(6.21)


def test_without_proc_the_load_average_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "STAT", tmp_path / "none")
    monkeypatch.setattr(quiet.os, "getloadavg", lambda: (5.5, 1.0, 1.0))
    with Watch(threads=2) as watch:
        pass
    assert (watch.load.others, watch.load.source) == (3.5, "load average")


def test_our_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([10.0, 11.0])
    own = iter([3.0, 4.0])
    monkeypatch.setattr(quiet, "busy_seconds", lambda which: next(busy))
    monkeypatch.setattr(quiet, "own_seconds", lambda: next(own))
    with Watch(threads=1) as watch:
        time.sleep(0.01)
    assert watch.load.others == 0.0


@pytest.fixture
def crowd() -> Iterator[None]:
    """As many busy processes as there are cores."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in quiet.cores()]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not quiet.STAT.exists(), reason="needs /proc/stat")
def test_a_machine_kept_busy_by_others_says_so(crowd: None) -> None:
    with Watch(threads=len(quiet.cores())) as watch:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            sum(range(1000))
    assert watch.load.others is not None
    assert watch.load.others > 0.3 * len(quiet.cores())
    assert watch.load.crowded
