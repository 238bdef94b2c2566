"""The frontier: what to use at a budget, and what is beaten."""

from __future__ import annotations

from pathlib import Path

from fna.report.frontier import COSTS, advice, control, frontiers, points, undominated
from fna.report.page import MANY, write_page
from fna.report.results import load
from tests.report.made_up_results import result, write_run

MADE = [  # attention, reducer, output error, speedup, share of full's operations
    ("fna", "none", 0.14, 1.10, 0.95), ("fna_plus", "none", 0.04, 1.12, 0.96), ("exact", "tome", 0.08, 1.5, 0.7),
    ("exact", "resize", 0.30, 2.0, 0.5), ("window", "none", 0.50, 0.9, 1.0),
]  # fmt: skip


def made(folder: Path, cases=MADE, **changes):
    for place, (attn, reduce, error, speed, operations) in enumerate(cases):
        cost = {**result()["cost"], "speedup": {"median": speed, "ci": [speed, speed]}}
        cost["flops"] = {"full": 1e9, "variant": operations * 1e9}
        fidelity = {"agreement": 90.0, "output_error": error, "output_error_ci": [0.9 * error, 1.1 * error]}
        write_run(folder / str(place), result(attn=attn, reduce=reduce, cost=cost, fidelity=fidelity) | changes)
    return load(folder)


def names(found) -> list[str]:
    return [point.run.result["attn"] + " " + point.run.result["reduce"] for point in found]


def test_what_another_beats_in_both_is_not_on_the_frontier(tmp_path: Path) -> None:
    found = points(made(tmp_path))
    for _, cost in COSTS:
        assert names(undominated(found, cost)) == ["exact resize", "exact tome", "fna_plus none"]


def test_the_advice_is_the_least_error_within_a_budget(tmp_path: Path) -> None:
    heads, rows = advice(points(made(tmp_path)))
    assert len(heads) == len(rows[0])
    told = {row[0].text: (row[2].text, row[5].text) for row in rows}
    assert told["90 %"] == ("0.040", "0.080")  # by operations FNA+ takes 96 % of full's
    assert told["70 %"] == ("0.080", "0.080")
    assert told["50 %"] == ("0.300", "0.300")
    assert "40 %" not in told


def test_where_the_smaller_input_wins_is_said(tmp_path: Path) -> None:
    assert (
        control(points(made(tmp_path / "a")))
        == "A smaller input wins at 60 %, 50 % of the time and at 60 %, 50 % of the operations."
    )
    assert control(points(made(tmp_path / "b", MADE[:3]))) == ""
    beaten = [*MADE, ("fna_plus", "tome", 0.2, 2.1, 0.45)]
    assert control(points(made(tmp_path / "c", beaten))) == "A smaller input wins at no budget."


def test_only_contenders_on_the_most_samples_are_held_against_each_other(tmp_path: Path) -> None:
    made(tmp_path / "most", samples=100)
    made(tmp_path / "fewer", [("fna", "none", 0.01, 3.0, 0.3)], samples=60)
    [found] = frontiers(load(tmp_path))
    assert found.title.endswith("on 100 samples")
    assert "0.010" not in str(found.advice)


def test_a_speed_that_is_no_measurement_counts_for_nothing(tmp_path: Path) -> None:
    runs = made(tmp_path / "quiet")
    assert [len(one.plots) for one in frontiers(runs)] == [2]
    for run in runs[:2]:
        run.result["cost"]["measurement"] = {"quiet": False, "reasons": ["another process ran"]}
    assert sum(point.time is not None for point in points(runs)) == 3
    (shown,) = frontiers(runs)
    assert [plot.title.partition(" (")[0] for plot in shown.plots] == ["Error against operations"]


def test_dense_outputs_have_a_frontier_of_their_own(tmp_path: Path) -> None:
    made(tmp_path / "a", task="classification")
    made(tmp_path / "b", task="fidelity_patches")
    page = write_page(tmp_path).read_text()
    assert page.count("budget, pooled outputs") == page.count("budget, dense outputs") == 1


def test_the_page_has_plots_and_advice_for_each_size(tmp_path: Path) -> None:
    made(tmp_path / "a", image_size=[224, 224])
    made(tmp_path / "b", image_size=[512, 512])
    shown = frontiers(load(tmp_path))
    assert [one.title.partition(", ")[2] for one in shown] == ["pooled outputs, 224 px", "pooled outputs, 512 px"]
    assert [len(one.plots) for one in shown] == [2, 2]
    page = write_page(tmp_path).read_text()
    assert page.count("What to use at a given budget") == 2
    assert "A smaller input wins at 60 %, 50 % of the time and at 60 %, 50 % of the operations." in page.replace("\n", " ")


def test_the_advice_stands_before_the_pairs_which_are_folded_where_they_are_many(tmp_path: Path) -> None:
    pair = {"metrics": {"top1": {"a": 1.0, "b": 2.0, "delta": 1.0, "ci": [0.5, 1.5]}}}
    for count in (MANY, MANY + 1):
        folder = tmp_path / str(count)
        made(folder, pairs=[pair | {"a": f"left {place}", "b": "right"} for place in range(count)])
        page = write_page(folder).read_text()
        assert 0 < page.index("What to use at a given budget") < page.index("Every two of them")
        assert (f"{count} rows</summary>" in page) == (count > MANY)
