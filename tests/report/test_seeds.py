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


def lines(folder: Path) -> list[dict[str, str]]:
    summary = summarise(load(folder))
    return [dict(zip(summary.heads, [cell.text for cell in row], strict=True)) for row in summary.rows]


def test_runs_of_one_seed_whose_code_weights_or_pictures_changed_are_lines_of_their_own(tmp_path: Path) -> None:
    """No word tells them apart, so that their folder does; none stands for the others, and no mean is made of them."""
    for place, (seed, error) in enumerate([(0, 0.1), (0, 0.9), (1, 0.9)]):
        fidelity = {"agreement": 90.0, "output_error": error}
        changed = result(seed=seed, hash=f"row {place}", recipe="old" if place == 0 else "new", fidelity=fidelity)
        write_run(tmp_path / f"job{place}", changed)
    found = lines(tmp_path)
    assert [line["output error"] for line in found] == ["0.100", "0.900"]
    write_run(tmp_path / "job2", result(seed=0, hash="row 2", recipe="newest"))
    found = lines(tmp_path)
    assert [line["run"] for line in found] == ["job0", "job1", "job2"]
    assert "3 comparisons" in printed(load(tmp_path))
    assert "together" not in printed(load(tmp_path))
    assert "lines that only their run tells apart" in printed(load(tmp_path))


def test_an_option_that_was_changed_in_its_file_tells_lines_apart(tmp_path: Path) -> None:
    for window in (3, 5, 7):
        options = {"attn.window": window, "attn.steps": 6}
        write_run(tmp_path / str(window), result(hash=f"row {window}", recipe=f"with {window}", options=options))
    assert [line["attn.window"] for line in lines(tmp_path)] == ["3", "5", "7"]
    assert "only their run" not in printed(load(tmp_path))


def test_the_same_row_twice_is_one_line(tmp_path: Path) -> None:
    for place in range(2):
        write_run(tmp_path / str(place), result(hash="row", recipe="one"))
    assert len(lines(tmp_path)) == 1


def test_one_row_beside_other_figures_of_others_is_not_told_as_changed(tmp_path: Path) -> None:
    for place in range(2):
        write_run(tmp_path / str(place), result(hash="row", recipe="one", expected=f"{place}.csv"))
    assert "only their run" not in printed(load(tmp_path))
