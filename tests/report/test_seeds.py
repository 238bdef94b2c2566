"""Runs over seeds are one line: the spread over seeds beside the interval over samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.report.page import write_page
from fna.report.results import load
from fna.report.seeds import merged
from fna.report.sweep import summarise
from tests.report.made_up_results import result, write_run
from tests.report.test_table import printed


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Two counts of landmarks over three seeds."""
    for job in range(6):
        seed, count, delta = job % 3, (16, 64)[job // 3], -1.0 + 0.3 * (job % 3)
        top1 = {"full": 70.0, "variant": 70.0 + delta, "delta": delta, "ci": [delta - 0.5, delta + 0.7]}
        write_run(tmp_path / str(job), result(seed=seed, landmarks=count, hash=f"{job}", metrics={"top1": top1}))
    return tmp_path


def test_a_line_is_the_mean_and_tells_both_spreads(seeds: Path) -> None:
    summary = summarise(load(seeds))
    assert len(summary.rows) == 2
    line = dict(zip(summary.heads, [cell.text for cell in summary.rows[0]], strict=True))
    assert line["landmarks"] == "16"
    assert line["delta"] == "-0.70"
    assert line["over seeds"] == "-1.00 to -0.40"
    assert [cell.text for cell in summary.rows[0]][3] == "[-1.20, 0.00]"


def test_the_page_says_which_spread_is_which(seeds: Path) -> None:
    page = write_page(seeds).read_text()
    assert "95 % interval: over samples" in page
    assert "over seeds: the smallest and the largest difference" in page
    assert "−0.70<small>[−1.20, 0.00]</small><small>over seeds −1.00 to −0.40</small></td>" in page
    assert "over seeds" in printed(load(seeds))
    assert "6 comparisons" in printed(load(seeds))


def test_one_seed_is_no_spread(sweep_folder: Path) -> None:
    assert "over seeds" not in summarise(load(sweep_folder)).heads
    assert merged(load(sweep_folder)) == load(sweep_folder)


def test_other_differences_beside_the_seed_keep_runs_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result(seed=0))
    write_run(tmp_path / "1", result(seed=1, overrides=["attn.steps=3"]))
    assert len(merged(load(tmp_path))) == 2
