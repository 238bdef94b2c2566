"""A table side by side: its lines in order, all of it in a terminal's and a phone's width, and what is left out is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fna.report.day import read_day
from fna.report.page import write_page
from fna.report.results import load
from fna.report.table import sweep_markdown
from tests.report.made_up_results import result, retrieval, write_run
from tests.report.test_table import printed


@pytest.fixture
def unlike(tmp_path: Path) -> Path:
    """Runs of one section that have little in common."""
    settings = [
        {"attn": "nystromformer", "landmarks": 16, "sampler": "SegmentMeans"},
        {"attn": "fna", "landmarks": 128, "layers": [0, 3, 6, 7]},
        {"attn": "fna", "landmarks": 16, "samples": 24},
        {"attn": "fna", "landmarks": 16, "overrides": ["attn.steps=3"]},
        {"attn": "exact", "sampler": "none", "reduce": "tome", "overrides": ["reduce.r=8"]},
        {"attn": "fna", "landmarks": 32, "seed": 1, "sampler": "random"},
    ]
    for place, changes in enumerate(settings):
        write_run(tmp_path / str(place), retrieval(hash=str(place), **changes))
    return tmp_path


def test_lines_stand_by_samples_method_and_landmarks(unlike: Path) -> None:
    [section] = read_day(load(unlike)).sections
    assert [(run.result["attn"], run.result["landmarks"], run.result["samples"]) for run in section.runs] == [
        ("exact", 64, 500),
        ("fna", 16, 500),
        ("fna", 128, 500),
        ("fna", 32, 500),  # of another sampler
        ("nystromformer", 16, 500),
        ("fna", 16, 24),
    ]


def test_a_hundred_columns_hold_every_line_and_no_cell_is_broken(unlike: Path) -> None:
    text = printed(load(unlike), width=100)
    table = text.partition("\nattention ")[2].partition("\nno room here")[0].splitlines()[1:]
    assert table
    assert all(len(line.rstrip()) <= 100 for line in table)
    assert sum("[-1.40, +0.50]" in line for line in table) == 6
    assert "FNA" in [line.split("  ")[0] for line in table]
    assert [line for line in table if "0.042" in line]  # the output error


def test_a_column_for_which_there_is_no_room_is_named(unlike: Path) -> None:
    [line] = [line for line in printed(load(unlike), width=100).splitlines() if line.startswith("no room here for ")]
    assert "operations" in line
    assert "sampling" in line
    assert "output error" not in line
    assert "no room here" not in printed(load(unlike), width=400)


def test_the_score_of_full_stands_below_the_difference_where_a_column_has_no_room(tmp_path: Path) -> None:
    for place, full in enumerate((80.0, 90.0)):
        scores = {"variant": full, "delta": -1.0, "ci": [-2.0, 0.5]}
        metrics = {"t2i_r1": {"full": full, **scores}, "i2t_r1": {"full": full + 1, **scores}}
        write_run(tmp_path / str(place), retrieval(hash=str(place), samples=500 - place, metrics=metrics))
    narrow = printed(load(tmp_path), width=60)
    assert "no room here for" in narrow
    assert " of full" not in narrow.partition("no room here for")[2].partition(":")[0]
    for figure in ("full 80.00", "full 81.00", "full 90.00", "full 91.00"):
        assert figure in narrow
    assert "full 80.00" not in printed(load(tmp_path), width=300)


def test_in_a_cell_and_a_label_a_comma_parts_settings_alone(unlike: Path) -> None:
    for seed in (2, 3):
        write_run(unlike / f"seed{seed}", retrieval(hash=f"s{seed}", landmarks=32, seed=seed, sampler="random"))
    [section] = read_day(load(unlike)).sections
    cells = {part.text for row in section.summary.rows for part in row}
    assert {"0+3+6-7", "1-3"} <= cells
    assert "0, 3, 6-7" not in cells
    assert "8 comparisons with full attention in 6 lines, the seeds of a setting together." in printed(load(unlike))


def test_on_a_phone_every_value_stands_below_the_head_of_its_column(unlike: Path) -> None:
    page = write_page(unlike).read_text()
    table = page.partition("<h2>Side by side</h2>")[2].partition("</table>")[0]
    heads = re.findall(r"<th[^>]*>([^<]+)</th>", table)
    assert heads[0] == "attention"
    assert "sampler" not in heads  # one column says which run it is
    assert "output error" in heads
    for row in re.findall(r"<tr.*?</tr>", table.partition("<tbody>")[2], re.S):
        assert re.findall(r'data-head="([^"]+)"', row) == heads
    assert "content: attr(data-head)" in page
    assert "<small>random, 32 landmarks, blocks 4-7, 500 samples, seed 1</small>" in table


def test_what_is_told_of_model_and_data_stands_below_the_figures(tmp_path: Path) -> None:
    note = "position embedding resampled"
    write_run(tmp_path / "0", result(notes=[note]))
    for text in (printed(load(tmp_path)[0].result), write_page(tmp_path).read_text().partition("<h3>result.json")[0]):
        assert text.index("71.05") < text.index(note)
    write_run(tmp_path / "1", result(hash="b", landmarks=8, notes=[note]))
    for text in (printed(load(tmp_path)), sweep_markdown(load(tmp_path)), write_page(tmp_path).read_text()):
        assert text.index("71.05") < text.index(note)


def test_a_run_without_metrics_has_no_empty_columns() -> None:
    text = printed(result(metrics={}, task="fidelity", cost={}))
    [head] = [line for line in text.splitlines() if line.startswith("fidelity")]
    assert head.split() == ["fidelity", "FNA", "95", "%", "interval"]
    assert not [line for line in text.splitlines() if line.startswith("quality")]
