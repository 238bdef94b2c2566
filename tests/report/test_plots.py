"""Plots: drawn where there is something to draw, in the page's own colours."""

from __future__ import annotations

import re
from pathlib import Path

from fna.report.page import write_page
from fna.report.plots import frontier, plots
from fna.report.results import load
from tests.report.made_up_results import result, write_run


def test_a_sweep_over_landmarks(sweep_folder: Path) -> None:
    drawn = plots(load(sweep_folder))
    assert [plot.title for plot in drawn] == [
        "top-1: what it costs, what it buys (broad: the frontier)",
        "top-1 over landmarks",
    ]
    for plot in drawn:
        assert [name for name, _, _ in plot.legend] == ["fps", "uniform", "random"]
        assert "var(--c2)" in plot.svg
        assert "#0" not in plot.svg.replace('href="#', "").replace("url(#", "")
        assert "http" not in plot.svg


def test_the_crossover_is_drawn_where_tokens_differ(tmp_path: Path) -> None:
    for job, (size, tokens) in enumerate([(224, 197), (384, 577), (512, 1025)]):
        write_run(tmp_path / str(job), result(image_size=[size, size], tokens=tokens))
    drawn = plots(load(tmp_path))[-4:]
    assert [plot.title.partition(" (")[0] for plot in drawn] == [
        "Where it begins to pay", "Time of an image over tokens", "Peak memory over tokens", "Output error over tokens",
    ]  # fmt: skip
    assert [name for name, _, _ in drawn[1].legend] == ["full", "FNA"]


def test_nothing_is_drawn_of_one_run_or_without_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result())
    assert plots(load(tmp_path)) == []
    write_run(tmp_path / "1", result(landmarks="auto", cost={}))
    assert plots(load(tmp_path)) == []


def test_one_count_beside_a_method_without_landmarks_is_no_line(tmp_path: Path) -> None:
    for place, (attn, landmarks) in enumerate({"fna": 64, "fna_plus": 64, "window": None}.items()):
        write_run(tmp_path / str(place), result(attn=attn, landmarks=landmarks))
    assert "top-1 over landmarks" not in [plot.title for plot in plots(load(tmp_path))]


def test_drawing_twice_gives_the_same(sweep_folder: Path) -> None:
    runs = load(sweep_folder)
    assert plots(runs) == plots(runs)


def test_a_number_that_was_typed_has_a_plot_with_whole_ticks(tmp_path: Path) -> None:
    for job, (inverse, steps) in enumerate([("newton", 3), ("newton", 6), ("exact", 3), ("exact", 6)]):
        write_run(tmp_path / str(job), result(overrides=[f"attn.inverse={inverse}", f"attn.steps={steps}"], cost={}))
    [plot] = plots(load(tmp_path))
    assert plot.title == "top-1 over attn.steps"
    assert [name for name, _, _ in plot.legend] == ["attn.inverse=newton", "attn.inverse=exact"]
    assert re.findall(r">([345]\.?\d*)</text>", plot.svg) == ["3", "4", "5"]
    widths = re.findall(r"stroke-width: ([\d.]+)", plot.svg)
    assert {"1.6", "4.6"} <= set(widths)  # the lines are equal: the one below is wider


def test_labels_of_points_do_not_lie_on_each_other(tmp_path: Path) -> None:
    for job in range(12):
        content = result(landmarks=100 + job)
        content["cost"]["speedup"] = {"median": 1.2 + (job == 11), "ci": [1.1, 2.3]}
        write_run(tmp_path / str(job), content)
    cost = plots(load(tmp_path))[0].svg
    assert 0 < len(re.findall(r">1[01]\d</text>", cost)) < 6  # eleven points in one place have room for a few labels


def test_the_frontier_holds_what_nothing_beats_in_both() -> None:
    points = [(1.0, 0.0), (1.2, -0.5), (1.1, -0.9), (1.5, -2.0), (1.5, -3.0), (0.8, -0.1)]
    assert frontier(points) == [(1.5, -2.0), (1.2, -0.5), (1.0, 0.0)]


def test_more_lines_than_colours_are_grey_but_for_the_best_and_those_on_the_frontier(tmp_path: Path) -> None:
    for place in range(18):
        top1 = {"full": 71.0, "variant": 70.0, "delta": -0.1 * place, "ci": [-2.0, 0.5]}
        content = result(hash=str(place), sampler=f"s{place}", metrics={"top1": top1})
        content["cost"] = content["cost"] | {"speedup": {"median": 2.0 if place == 17 else 1.1, "ci": [1.0, 2.0]}}
        write_run(tmp_path / str(place), content)
    legend = plots(load(tmp_path))[0].legend
    assert [name for name, _, _ in legend] == [*(f"s{place}" for place in range(6)), "s17", "11 others, in the table above"]
    assert [place for _, place, _ in legend] == [*range(7), -1]


def test_the_legend_of_neighbouring_plots_stands_once(sweep_folder: Path) -> None:
    page = write_page(sweep_folder).read_text()
    assert page.count('<i class="s0"></i>fps') == 1
    assert page.count("lines as in the plot before") == 1
