"""What others measured, beside ours: matched by settings, named by source, apart where nothing matches."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.errors import UserError
from fna.report.expected import load_expected, read_figures
from fna.report.plots import plots
from fna.report.results import load
from fna.report.sweep import summarise
from fna.report.table import markdown, sweep_markdown
from tests.report.made_up_results import Result, result, write_run
from tests.report.test_page import assert_self_contained, read_page

HOME = "made_up_vit,made_up_photos"
ELSEWHERE = "their_vit,their_photos"


def table(folder: Path, keys: str, *lines: str) -> str:
    path = folder / "expected.csv"
    path.write_text("\n".join([f"source,model,dataset,{keys},metric,full,variant", *lines]) + "\n")
    return str(path)


def starts(folder: Path, world: str) -> Path:
    """A sweep over the first masked block, and somebody's figures for blocks 6 and 7."""
    path = table(folder, "mask,mask_start", *(f"somebody,{world},both,{block},top1,70,{71 + block}" for block in (6, 7)))
    for block in (6, 7):
        write_run(folder / str(block), result(mask="both", mask_start=block, expected=path))
    return folder


def test_the_figure_of_the_same_settings_stands_beside_ours(tmp_path: Path) -> None:
    runs = load(starts(tmp_path, HOME))
    summary = summarise(runs)
    assert summary.theirs == []
    place = summary.heads.index("top-1, somebody")
    assert [row[place].text for row in summary.rows] == ["77.00 (+7.00)", "78.00 (+8.00)"]
    assert summary.sources == ["somebody: made_up_vit on made_up_photos"]
    assert "77.00 (+7.00)" in sweep_markdown(runs)
    assert "78.00 (+8.00)" in markdown(runs[1].result)
    assert "77.00 (+7.00)" in read_page(tmp_path).words


def test_block_numbers_of_another_model_stand_apart_with_a_plot_of_their_own(tmp_path: Path) -> None:
    runs = load(starts(tmp_path, ELSEWHERE))
    summary = summarise(runs)
    assert summary.sources == ["2 expected figures are of another model or data set and stand apart"]
    assert "top-1, somebody" not in summary.heads
    (theirs,) = summary.theirs
    assert theirs.title.startswith("somebody: their_vit on their_photos; ours: made_up_vit on made_up_photos. Compare the order,")
    assert theirs.title.endswith("top-1 of full 70.00")
    assert [cell.text for cell in theirs.rows[0]] == ["both", "6", "77.00", "+7.00"]
    assert "top-1: somebody, their_vit on their_photos" in [plot.title for plot in plots(runs)]
    page = read_page(tmp_path)
    assert_self_contained(tmp_path)
    assert "What others measured" in page.words
    assert theirs.title[:40] in sweep_markdown(runs)


def test_settings_without_block_numbers_match_across_models(tmp_path: Path) -> None:
    path = table(tmp_path, "guarantee", f'somebody,{ELSEWHERE},"CLS keep, massive drop",top1,70,69')
    ours = result(guarantee="CLS keep, massive drop", expected=path)
    other = result(guarantee="CLS drop, massive drop", expected=path)
    found = load_expected([ours, other])
    assert [figure.delta for figure in found.beside(ours)] == [-1]
    assert found.beside(other) == []
    assert found.tables() == []
    assert "Compare the order" in found.sources()[0]


def test_figures_of_full_attention_alone_are_named_so(tmp_path: Path) -> None:
    path = table(tmp_path, "landmarks", f"somebody,{HOME},64,top1,71.5,")
    assert "| 71.50 full |" in markdown(result(expected=path))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "give a CSV file, as experiments/README.md says"), ("a,b\n1,2\n", "not a table"), ("", "not a table")],
)
def test_a_file_that_is_gone_or_no_table_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "expected.csv"
    if content is not None:
        path.write_text(content)
    made: Result = result(expected=str(path))
    with pytest.raises(UserError, match=said):
        read_figures(str(path))
    assert said in load_expected([made]).problems[0]
    assert str(path) in load_expected([made]).problems[0]
    assert "71.05" in markdown(made)


COLUMNS = "source,model,dataset,metric,full,variant"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("my-machine\n", "its first line has no column source"),
        ("", "its first line has no column source"),
        ("source;model;dataset;metric;full\nshe;vit;photos;top1;70\n", "its first line has no column source"),
        (f"{COLUMNS}\n", "has no figure below its columns"),
        (f"{COLUMNS}\nshe,vit,photos,top1,nan,\n", "nan is no figure"),
        (f"{COLUMNS}\nshe,vit,photos,top1,70,inf\n", "inf is no figure"),
        (f"{COLUMNS}\nshe,vit,photos,top1,70,69,0.5\n", "the line of she has more or fewer cells than there are columns"),
        (f"{COLUMNS}\nshe,vit,photos,top1,70\n", "the line of she has more or fewer cells than there are columns"),
        (f"{COLUMNS}\n{'x' * 200_000},vit,photos,top1,70,69\n", "field larger than field limit"),
    ],
)
def test_a_file_that_gives_no_figure_or_one_that_could_lie_beside_no_result_is_refused(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "expected.csv"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        read_figures(str(path))
    assert str(refused.value).startswith(f"expected={path}: ")
    assert said in str(refused.value)


def test_two_sources_of_one_metric_both_stand_beside_it(tmp_path: Path) -> None:
    path = table(tmp_path, "landmarks", *(f"{who},{HOME},64,top1,71,{value}" for who, value in (("she", 70.5), ("he", 70.25))))
    write_run(tmp_path / "0", result(expected=path))
    write_run(tmp_path / "1", result(expected=path, landmarks=32))
    text = markdown(result(expected=path))
    assert "| she | he |" in text
    assert "| 70.50 (-0.50) | 70.25 (-0.75) |" in text
    assert {"top-1, she", "top-1, he"} < set(summarise(load(tmp_path)).heads)


def test_figures_without_a_place_are_counted_with_what_no_result_has(tmp_path: Path) -> None:
    path = table(tmp_path, "landmrks", f"somebody,{HOME},64,top1,71,70")
    assert "1 of 1 expected figure matches no result: none has landmrks" in markdown(result(expected=path))
    path = table(tmp_path, "layers", f"somebody,{HOME},last-half,top1,71,70", f"somebody,{HOME},4-7,top1,71,70")
    assert load_expected([result(expected=path)]).sources()[-1] == (
        "1 of 2 expected figures matches no result: layers last-half there, 4-7 here"
    )


def test_a_file_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = Path(table(tmp_path, "landmarks", f"somebody,{HOME},64,top1,71,70"))
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert [figure.source for figure in read_figures(str(path))] == ["somebody"]


def test_an_empty_cell_asks_for_nothing_and_an_option_of_which_no_column_speaks_makes_another_run(tmp_path: Path) -> None:
    path = table(tmp_path, "landmarks,attn.steps", f"somebody,{HOME},,6,top1,71,70", f"somebody,{HOME},64,,top1,71,69")
    plain, steps, rule = (
        result(expected=path, overrides=words) for words in (["limit=9"], ["attn.steps=6"], ["attn.steps=6", "mask.rule=norm"])
    )
    found = load_expected([plain, steps, rule])
    assert [[figure.variant for figure in found.beside(made)] for made in (plain, steps, rule)] == [[69], [70, 69], []]


def test_ours_further_off_than_the_tolerance_is_said(tmp_path: Path) -> None:
    path = table(tmp_path, "landmarks,tolerance", f"somebody,{HOME},64,0.5,top1,71,70", f"somebody,{HOME},64,2,top1,71,70")
    assert "1 of ours lies further from these than the tolerance" in load_expected([result(expected=path)]).sources()


EXPERIMENTS = {
    "vit_tiny_tinyimagenet": {
        "model": "vit_tiny_tinyimagenet", "dataset": "tiny_imagenet", "image_size": [224, 224], "samples": 1000,
        "layers": [6, 7, 8, 9, 10, 11], "landmarks": 16,
    },
    "shapes_segmentation": {
        "model": "clip_shapes", "dataset": "shapes_segmented", "task": "segmentation_zeroshot", "landmarks": 64,
        "metrics": {"miou": {"full": 85.12, "variant": 85.27, "delta": 0.15, "ci": [0.05, 0.25]}},
    },
    "camvid_fna": {
        "model": "vit_tiny_tinyimagenet", "dataset": "camvid", "task": "segmentation", "image_size": [352, 480], "samples": 30,
        "layers": [6, 7, 8, 9, 10, 11], "landmarks": 64,
        "metrics": {"miou": {"full": 40.8, "variant": 40.3, "delta": -0.5, "ci": [-0.7, -0.3]}},
    },
}  # fmt: skip
OTHER = [
    {"attn": "nystromformer", "sampler": "SegmentMeans"},
    {"sampler": "random"},
    {"mask": "both"},
    {"samples": 100},
    {"task": "probe"},
    {"overrides": ["attn.inverse=exact"]},
    {"overrides": ["task.head.blocks=4"]},
]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_figures_of_an_experiment_stand_beside_its_runs_and_no_others(name: str) -> None:
    own = result(**EXPERIMENTS[name], expected=f"experiments/{name}/expected.csv")
    assert len(load_expected([own]).beside(own)) == 1
    for change in OTHER:
        assert load_expected([own | change]).beside(own | change) == [], change


def test_how_near_outputs_are_stands_beside_ours_too(tmp_path: Path) -> None:
    path = tmp_path / "expected.csv"
    path.write_text(
        "source,model,dataset,landmarks,metric,full,variant,tolerance\n"
        f"somebody,{HOME},64,output_error,0,0.0435,0.005\nanother,{HOME},64,output_error,0,0.0954,0.005\n"
    )
    ours = result(expected=str(path))
    found = load_expected([ours])
    assert [figure.missed(ours) for figure in found.beside(ours)] == [False, True]
    assert "1 of ours lies further from these than the tolerance" in found.sources()
    assert "0.0435 | 0.0954 |" in markdown(ours)
    write_run(tmp_path / "0", ours)
    write_run(tmp_path / "1", result(landmarks=32, expected=str(path)))
    assert "output error, somebody" in summarise(load(tmp_path)).heads
    assert "output error, somebody" in read_page(tmp_path / "0").words


def test_shares_of_one_and_figures_that_are_none_are_said(tmp_path: Path) -> None:
    """Ours are in percent: 0.75 beside 75 is another unit, and nan no figure."""
    path = tmp_path / "expected.csv"
    path.write_text(f"source,model,dataset,metric,full,variant\nsomebody,{HOME},top1,0.75,0.74\n")
    (said,) = [text for text in load_expected([result(expected=str(path))]).sources() if "percent" in text]
    assert said.startswith("1 expected figure at most 1 where ours are in percent (first: top1 of somebody)")
    path.write_text(f"source,model,dataset,metric,full,variant\nsomebody,{HOME},top1,nan,74\n")
    with pytest.raises(UserError, match="nan is no figure"):
        read_figures(str(path))
