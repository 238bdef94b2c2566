"""A report over a day's work: sections, runs made twice, failures folded."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fna.report.day import newest, read_day
from fna.report.page import write_page
from fna.report.results import load
from fna.report.table import sweep_markdown
from fna.report.words import Part, plain
from tests.report.made_up_results import failed, result, retrieval, write_run
from tests.report.test_table import printed


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """Two methods on one model and data set, retrieval on another, and a failure."""
    write_run(tmp_path / "runs/0", result(hash="a"))
    write_run(tmp_path / "runs/1", result(hash="b", attn="nystromformer"))
    write_run(tmp_path / "runs/2", retrieval(hash="c", model="made_up_clip", dataset="made_up_captions"))
    write_run(tmp_path / "sweeps/0/0", result(hash="d", sampler="random"))
    write_run(tmp_path / "sweeps/0/1", failed("made-up reason") | {"overrides": ["landmarks=0"]})
    return tmp_path


def test_each_model_data_set_and_task_is_a_section(day: Path) -> None:
    found = read_day(load(day))
    assert [(section.title, len(section.runs)) for section in found.sections] == [
        ("made_up_vit on made_up_photos, classification", 3),
        ("made_up_clip on made_up_captions, retrieval", 1),
    ]
    assert plain(found.title) == (
        "4 comparisons with full attention in 2 sections, one for each model, data set and task, and 1 failure."
    )


def test_what_differs_is_a_column_only_inside_a_section(day: Path) -> None:
    first, second = (section.summary for section in read_day(load(day)).sections)
    assert first.heads[:2] == ["attention", "sampler"]
    assert "model" not in first.heads
    assert not [head for head in first.heads if "t2i" in head]
    assert not [head for head in second.heads if "top-1" in head]


def test_the_page_lists_its_sections_on_top_and_folds_the_failures(day: Path) -> None:
    page = write_page(day).read_text()
    links = re.findall(r'href="#(part\d+|failed)"', page)
    assert links == ["part0", "part1", "failed"]
    assert all(f'id="{link}"' in page for link in links)
    assert page.index("<nav>") < page.index('id="part0"')
    assert re.search(r'<details class="failures" id="failed">.*made-up reason.*</details>', page, re.S)


def test_one_kind_of_run_needs_no_list(sweep_folder: Path) -> None:
    page = write_page(sweep_folder).read_text()
    assert "<nav>" not in page
    assert "failures" not in page.partition("</style>")[2]


def test_what_several_sections_say_is_said_once(tmp_path: Path) -> None:
    note, all_of_them = "the scores say nothing about either", "found in the attic"
    write_run(tmp_path / "0", result(hash="a", notes=[note, all_of_them]))
    write_run(tmp_path / "1", result(hash="b", model="other_vit", notes=[note, all_of_them]))
    write_run(tmp_path / "2", retrieval(hash="c", model="made_up_clip", notes=[all_of_them]))
    found = read_day(load(tmp_path))
    where = "made_up_vit on made_up_photos, classification; other_vit on made_up_photos, classification"
    assert found.notes == [f"{note} ({where})"]
    assert found.told == [all_of_them]
    assert not [line for section in found.sections for line in (*section.summary.notes, *section.summary.told)]
    page = re.sub(r'<details class="run">.*?result.json</h3><pre>.*?</pre>', "", write_page(tmp_path).read_text(), flags=re.S)
    for text in (printed(load(tmp_path)), sweep_markdown(load(tmp_path)), page):
        assert text.count(note) == 1
        assert text.count(all_of_them) == 1
        assert text.count("relative output error: how far the outputs (logits") == 1


def test_a_warning_box_is_for_what_is_wrong(tmp_path: Path) -> None:
    for number in "01":
        write_run(tmp_path / number, result(hash=number, seed=int(number), notes=["the first 20 of 40 pictures"]))
    page = write_page(tmp_path).read_text().partition("</style>")[2]
    assert 'class="caveats"' not in page
    assert "<li>the first 20 of 40 pictures</li>" in page
    assert "! the first 20" not in printed(load(tmp_path))


def test_a_column_is_explained_where_it_is_shown(day: Path) -> None:
    assert "agreement: share of" in printed(load(day), width=160)
    narrow = printed(load(day), width=40)
    assert "agreement: share of" not in narrow
    assert "relative output error" not in narrow


def test_a_section_does_not_say_model_and_data_again(day: Path) -> None:
    assert not [s for s in read_day(load(day)).sections if "made_up_vit on made_up_photos:" in plain(s.summary.title)]


def test_a_split_that_nobody_knows_is_not_told(tmp_path: Path) -> None:
    for number in "01":
        write_run(tmp_path / number, result(hash=number, landmarks=int(number) + 8, split="unknown"))
    assert "unknown" not in printed(load(tmp_path))
    assert "unknown" not in printed(load(tmp_path)[0].result)


def test_a_method_has_one_name_in_headline_and_table(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result())
    write_run(tmp_path / "1", result(hash="b", attn="nystromformer"))
    text = printed(load(tmp_path))
    assert "Nyströmformer" in text
    assert not re.search(r"^(fna|nystromformer)\b", text, re.M)


def test_a_sampler_that_the_attention_has_anyway_is_no_column(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result())
    write_run(tmp_path / "1", result(hash="b", attn="nystromformer", sampler="SegmentMeans"))
    assert read_day(load(tmp_path)).sections[0].summary.heads[0] == "attention"
    assert "sampler" not in read_day(load(tmp_path)).sections[0].summary.heads
    write_run(tmp_path / "2", result(hash="c", sampler="random"))
    assert "sampler" in read_day(load(tmp_path)).sections[0].summary.heads


def test_seeds_beside_other_runs_fit_a_terminal_of_a_hundred_columns(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"seed{seed}", retrieval(hash=f"s{seed}", seed=seed, sampler="random"))
    write_run(tmp_path / "other", retrieval(hash="o", attn="nystromformer", landmarks=8, layers="all", sampler="SegmentMeans"))
    lines = printed(load(tmp_path), width=100).splitlines()
    assert [line for line in lines if line.startswith("Nyströmformer  ")]
    assert [line for line in lines if "-1.00 to -1.00" in line and "-0.70 to -0.70" in line and len(line) <= 100]


def test_how_a_run_was_measured_is_no_column(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result(overrides=["timing.enabled=False", "bootstrap=100"]))
    write_run(tmp_path / "1", result(hash="b", sampler="random", overrides=["timing.rounds=9"]))
    write_run(tmp_path / "2", result(overrides=["timing.enabled=false", "bootstrap=100"]))  # the first, spelt otherwise
    found = read_day(load(tmp_path))
    assert found.repeated == 1
    assert not {"timing.enabled", "timing.rounds", "bootstrap"} & set(found.sections[0].summary.heads)


def test_a_run_made_twice_is_one_and_the_newest(tmp_path: Path) -> None:
    for name, seconds in (("b", 200), ("a", 300), ("c", 100)):
        write_run(tmp_path / name, result(seconds=seconds))
        os.utime(tmp_path / name / "result.json", (seconds, seconds))
    runs = load(tmp_path)
    assert [run.name for run in newest(runs)] == ["a"]
    assert read_day(runs).remark == (
        "2 runs made more than once: the newest stands here, one with a timing before one without; results.csv has all"
    )
    assert "2 runs made more than once" in sweep_markdown(runs)


def test_of_equal_runs_the_one_whose_speed_was_measured_stands(tmp_path: Path) -> None:
    write_run(tmp_path / "timed", result(overrides=["timing.rounds=6"]))
    write_run(tmp_path / "untimed", result(overrides=["timing.enabled=false"], cost={}))
    os.utime(tmp_path / "timed" / "result.json", (100, 100))  # the older one
    assert [run.name for run in newest(load(tmp_path))] == ["timed"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"hash": "other"},
        {"overrides": ["attn.steps=3"]},
        {"rows": {"full": "else"}},
        {"device": "cuda"},
        {"samples": 9},
    ],
)
def test_runs_that_differ_in_anything_stay_two(tmp_path: Path, change: dict[str, object]) -> None:
    write_run(tmp_path / "0", result())
    write_run(tmp_path / "1", result(**change))
    assert len(newest(load(tmp_path))) == 2


def test_where_rows_are_kept_or_how_many_pictures_makes_no_other_run(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result(overrides=["rows_dir=here", "gallery=0"]))
    write_run(tmp_path / "1", result(overrides=["landmarks=64"]))
    assert len(newest(load(tmp_path))) == 1


def test_a_failure_made_twice_is_one_and_other_failures_stay(tmp_path: Path) -> None:
    words = {"overrides": ["landmarks=0"]}
    write_run(tmp_path / "0", failed("why") | words)
    write_run(tmp_path / "1", failed("why") | words)
    write_run(tmp_path / "2", failed("why") | {"overrides": ["landmarks=-1"]})
    write_run(tmp_path / "3", failed("no words"))
    write_run(tmp_path / "4", failed("no words"))
    assert [run.name for run in newest(load(tmp_path))] == ["1", "2", "3", "4"]


def test_sections_in_the_terminal_and_in_markdown(day: Path) -> None:
    text = printed(load(day))
    assert text.index("made_up_vit on made_up_photos, classification") < text.index("made_up_clip on made_up_captions, retrieval")
    assert text.rstrip().endswith("failed in folder sweeps/0/1 (landmarks=0): made-up reason")
    assert sweep_markdown(load(day)).count("\n## ") == 2


def test_a_table_fits_a_terminal_of_a_hundred_columns(day: Path) -> None:
    wide = [line for line in printed(load(day), width=100).splitlines() if re.match(r"(attention|FNA|fna|run|runs/2)\b", line)]
    assert wide
    assert all(len(line) <= 100 for line in wide)


def test_the_sentence_on_the_one_to_take_says_the_place_before_its_only_colon_and_not_below_a_section_of_that_name(
    day: Path, sweep_folder: Path
) -> None:
    alone = plain(read_day(load(sweep_folder)).title)
    assert "the closest, made_up_vit on made_up_photos: FNA with" in alone
    assert alone.count(": ") == 1
    first, _ = read_day(load(day)).sections
    assert "made_up" not in plain(first.summary.title)


def test_a_section_names_the_network_that_ran_and_its_sentence_does_not_again(day: Path) -> None:
    """``model.name`` is another network than the option's own: each of the two is a section, by its name."""
    named = {"model": "dinov2", "dataset": "images", "task": "fidelity", "metrics": {}}
    write_run(day / "own", result(hash="e", overrides=["model.name=vit_small_patch14_dinov2"], **named))
    write_run(day / "default", result(hash="f", checkpoint="random", **named))
    told = plain(_section(day, "vit_small_patch14_dinov2 on images, fidelity"))
    assert "FNA with 64 landmarks in blocks 4-7 agrees with full attention on 96.4 % [94.8, 97.9] of the samples" in told
    assert "vit_small" not in told
    assert "counts. FNA with 64 landmarks" in plain(_section(day, "dinov2 on images, fidelity"))


def test_what_sections_say_alike_names_them(day: Path) -> None:
    still = {"agreement": 100.0, "agreement_ci": [100.0, 100.0]}
    for name in ("one", "other"):
        write_run(day / name, result(hash=name, model=name, samples=8, fidelity=still))
    [remark] = read_day(load(day)).remarks
    assert remark.startswith("an interval without width (agreement with full): none of 8 samples changed there; ")
    assert remark.endswith(" (one on made_up_photos, classification; other on made_up_photos, classification)")


def _section(folder: Path, title: str) -> list[Part]:
    [section] = [section for section in read_day(load(folder)).sections if section.title == title]
    return section.summary.title


def test_a_section_of_one_run_without_a_quality_says_what_its_own_page_says(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result(task="fidelity", metrics={}))
    assert " agrees with full attention on " in plain(read_day(load(tmp_path)).title)


def test_runs_that_differ_in_the_figures_of_others_alone_are_one_and_show_all_of_these(tmp_path: Path) -> None:
    for name, whose in (("0", "somebody"), ("1", "another")):
        figures = f"source,model,dataset,metric,full,variant\n{whose},made_up_vit,made_up_photos,top1,71,70\n"
        (tmp_path / f"{whose}.csv").write_text(figures)
        write_run(tmp_path / name, result(expected=str(tmp_path / f"{whose}.csv")))
    write_run(tmp_path / "2", result(hash="other", attn="nystromformer"))  # that was made beside nobody's
    (section,) = read_day(load(tmp_path)).sections
    heads, rows = section.summary.heads, section.summary.rows
    cells = [[row[heads.index(f"top-1, {whose}")].text for whose in ("somebody", "another")] for row in rows]
    assert cells == [["70.00 (-1.00)", "70.00 (-1.00)"], ["–", "–"]]


def test_a_contender_that_ran_alone_too_is_one_line_and_the_pairs_stay(tmp_path: Path) -> None:
    entry = {"label": "attn=nystromformer", "attn": "nystromformer", "hash": "n", "status": "ok"}
    first = {"label": "attn=fna", "attn": "fna", "hash": "f", "status": "ok"}
    pair = {"a": "attn=fna", "b": "attn=nystromformer", "metrics": {"top1": {"delta": -1.0, "ci": [-2.0, -0.5]}}}
    write_run(tmp_path / "versus", result(hash="f", contenders=[first, entry], pairs=[pair]))
    write_run(tmp_path / "sweep/0", result(hash="f"))
    write_run(tmp_path / "sweep/1", result(hash="n", attn="nystromformer", rows={"full": "ff00", "variant": "n"}))
    os.utime(tmp_path / "versus/result.json", (100, 100))  # the oldest
    day = read_day(load(tmp_path))
    assert sorted(run.result["attn"] for run in day.sections[0].runs) == ["fna", "nystromformer"]
    assert day.repeated == 2
    assert "second - first" in printed(load(tmp_path))


def test_runs_against_other_contenders_are_two(tmp_path: Path) -> None:
    for attn in ("nystromformer", "agent"):
        write_run(tmp_path / attn, result(contenders=[{"label": f"attn={attn}", "attn": attn, "hash": attn, "status": "ok"}]))
    assert {run.result["attn"] for run in read_day(load(tmp_path)).sections[0].runs} == {"fna", "nystromformer", "agent"}
