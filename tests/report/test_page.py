"""The page: whole in one file, escaped, landmarks where they belong."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import fna
from fna.report.page import figures, write_page
from fna.report.pictures import Album, grid_cells, read_gallery
from fna.report.results import Run
from fna.report.view import metric_rows, stage_segments, time_bars, view
from tests.report.made_up_results import failed, result, retrieval, write_run

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}<img src=x onerror=y>"
VOID = {"meta", "image", "use", "path", "link", "br"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and whether every tag that is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def read_page(folder: Path) -> Reader:
    reader = Reader(write_page(folder).read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def assert_self_contained(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert not re.search(r"https?://|@import|<script|<link|<iframe", page)
    for name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action"):
            assert value is not None
            assert value.startswith(("data:image/", "#")), value


def test_a_run_says_what_was_compared_what_it_cost_and_what_it_bought(run_folder: Path) -> None:
    page = read_page(run_folder)
    assert_self_contained(run_folder)
    for piece in ("FNA with 64 landmarks in blocks 4-7 keeps top-1 within", "−0.2 [−0.8, +0.4] points", "1.19×", "96.4 %"):
        assert piece in page.words, piece
    for piece in ("made_up_vit", "made_up_photos/val", "3 of 12 tokens, and CLS", "landmark attention", "dog", "torch"):
        assert piece in page.words, piece


def test_landmarks_are_drawn_on_their_tokens(run_folder: Path) -> None:
    [item] = read_gallery(run_folder, Album()).landmarks
    # grid 3 x 4, prefix 1: token 1 is the first square, 7 the third of the second row, 12 the last; token 0 is CLS
    assert item.outline == "M0 0h1v1h-1zM2 1h1v1h-1zM3 2h1v1h-1z"
    assert item.veil.startswith("M0 0h4v3h-4z")
    page = read_page(run_folder)
    assert ("viewbox", "0 0 4 3") in page.attributes
    assert ("d", item.outline) in page.attributes


def test_grid_cells_leaves_out_prefix_suffix_and_repeats() -> None:
    assert grid_cells([0, 4, 5, 5, 17, 20], prefix=5, rows=3, columns=4) == [(0, 0)]
    assert grid_cells([16, 17], prefix=5, rows=3, columns=4) == [(2, 3)]


def test_a_picture_is_embedded_once_and_never_from_outside_the_folder(run_folder: Path, tmp_path: Path) -> None:
    album = Album()
    first, second = album.add(run_folder, "pictures/0.png"), album.add(run_folder, "pictures/0.png")
    assert first == second
    assert len(album.sources) == 1
    (tmp_path / "secret.png").write_bytes((run_folder / "pictures/0.png").read_bytes())
    assert album.add(run_folder, "../secret.png") is None
    assert album.add(run_folder, "pictures/missing.png") is None


@pytest.mark.parametrize("gallery", ["{", "[]", '{"landmarks": [{}]}', '{"landmarks": [{"image": "pictures/gone.png"}]}'])
def test_a_broken_gallery_is_said_and_the_page_is_written(run_folder: Path, gallery: str) -> None:
    (run_folder / "gallery.json").write_text(gallery)
    assert "gallery.json" in read_page(run_folder).words


def test_a_gallery_without_landmarks_or_grid_draws_none(run_folder: Path) -> None:
    item = {"image": "pictures/0.png", "key": "a", "grid": None, "prefix": 0, "index": []}
    (run_folder / "gallery.json").write_text(json.dumps({"landmarks": [item]}))
    assert "The landmarks" not in read_page(run_folder).words


def test_hostile_words_are_escaped(tmp_path: Path) -> None:
    content = result(**dict.fromkeys(("model", "dataset", "checkpoint", "sampler"), HOSTILE), notes=[HOSTILE], skipped=[HOSTILE])
    content["metrics"][HOSTILE] = content["metrics"]["top1"]
    content["cost"]["stages"][HOSTILE] = 0.2
    content["environment"][HOSTILE] = HOSTILE
    write_run(tmp_path / "0", content, pictures=True)
    gallery = json.loads((tmp_path / "0/gallery.json").read_text())
    gallery["flips"][0] |= {"truth": HOSTILE, "key": HOSTILE}
    (tmp_path / "0/gallery.json").write_text(json.dumps(gallery))
    write_run(tmp_path / "1", content | {"sampler": HOSTILE + "2", "landmarks": 8})
    write_run(tmp_path / "2", failed(HOSTILE))
    for folder in (tmp_path / "0", tmp_path):
        page = read_page(folder)
        assert_self_contained(folder)
        assert not {"script", "img"} & set(page.tags)
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert HOSTILE in page.words


def test_a_sweep_has_table_plots_and_each_run_folded(sweep_folder: Path) -> None:
    write_run(sweep_folder / "9", failed("made-up reason"))
    (sweep_folder / "10").mkdir()
    (sweep_folder / "10/result.json").write_text("{")
    page = read_page(sweep_folder)
    assert_self_contained(sweep_folder)
    assert page.tags.count("details") == 19  # each run, and the fold within it; the failures
    assert page.attributes.count(("class", "plot")) == 4  # the sweep's and the frontier's
    assert page.attributes.count(("class", "best")) == 1
    for piece in (
        "9 comparisons with full attention and 2 failures",
        "made-up reason",
        "result.json cannot be read",
        "fps, 16 landmarks",
    ):
        assert piece in page.words, piece
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_same_picture_stands_side_by_side(tmp_path: Path) -> None:
    for job, index in enumerate(([0, 1], [0, 2])):
        folder = write_run(tmp_path / str(job), result(seed=job), pictures=True)
        gallery = json.loads((folder / "gallery.json").read_text())
        gallery["landmarks"][0]["index"] = index
        (folder / "gallery.json").write_text(json.dumps(gallery))
    page = read_page(tmp_path)
    assert "The same picture, other landmarks" in page.words
    assert page.tags.count("image") == 1


@pytest.mark.parametrize(
    "content", [failed(), result(cost={}, fidelity={}), retrieval(checkpoint="random"), result(environment={})]
)
def test_results_with_less_in_them_have_a_page(tmp_path: Path, content: dict[str, object]) -> None:
    write_run(tmp_path, content)
    assert read_page(tmp_path).words


def test_interval_bars_share_an_axis_that_holds_zero() -> None:
    first, second = (row.bar for row in metric_rows(result(), {"top1": [], "top5": []}))
    assert first is not None
    assert second is not None
    assert first.zero == second.zero
    assert 0 < second.low < first.low < first.middle < first.zero < first.high < 100


def test_stages_fill_the_bar_and_the_rest_comes_last() -> None:
    segments = stage_segments(result())
    assert [segment.name for segment in segments] == ["landmark attention", "inverse", "sampling", "rest of the model"]
    assert sum(segment.width for segment in segments) == pytest.approx(100)


def test_the_command_is_one_for_a_shell_and_the_config_is_read_beside_the_result(run_folder: Path) -> None:
    (run_folder / ".hydra").mkdir()
    (run_folder / ".hydra/config.yaml").write_text("landmarks: 64\n")
    shown = view(Run(run_folder, "run", result(overrides=["attn=fna", "image_size=[96,64]"])), Album())
    assert (shown.command, shown.config) == ("python run.py attn=fna 'image_size=[96,64]'", "landmarks: 64\n")


def test_figures_are_set_as_in_print() -> None:
    assert figures("-0.2 [-0.8, +0.4] at 1.19x in blocks 4-7 of vit-2") == "−0.2 [−0.8, +0.4] at 1.19× in blocks 4-7 of vit-2"


def test_a_section_that_only_its_task_knows_is_shown_under_its_name(run_folder: Path) -> None:
    file = run_folder / "gallery.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "brightness": [{"text": "as bright as it gets"}]}))
    page = read_page(run_folder)
    assert "brightness" in page.words
    assert "as bright as it gets" in page.words


def test_a_page_without_timing_says_nothing_of_speed(tmp_path: Path) -> None:
    for job in range(2):
        write_run(tmp_path / str(job), result(cost={}, seed=job))
    words = read_page(tmp_path).words
    assert "operations" not in words
    assert "top-1 −0.20</" not in words
    assert "· –" not in words


def test_a_page_calls_the_method_by_its_name_and_names_model_and_data_first(run_folder: Path) -> None:
    words = read_page(run_folder).words
    assert "made_up_vit on made_up_photos: FNA with 64 landmarks" in words
    shown = words.partition("Quality")[2].partition("How to make it again")[0]
    assert "variant" not in shown
    assert "operations an image" in shown.partition("Fidelity")[0]
    assert "agreement: share of images with the same class first" in shown


def test_the_time_of_full_stands_above_that_of_the_approximation_on_one_scale() -> None:
    above, below = time_bars(result())
    assert (above.name, below.name) == ("exact", "FNA")
    assert [(stage.name, stage.share) for stage in above.stages] == [
        ("attention in the swapped blocks", "23.0 %"),
        ("rest of the model", "77.0 %"),
    ]
    assert above.width == 100
    assert below.width == pytest.approx(100 * 12.25 / 14.6)
    assert [bar.name for bar in time_bars(result(cost=result()["cost"] | {"floor": None}))] == ["FNA"]


def test_shares_of_a_busy_timing_stand_in_brackets_as_its_other_figures_do() -> None:
    busy = result()["cost"] | {"measurement": {"quiet": False, "reasons": ["busy"]}}
    shares = [stage.share for bar in time_bars(result(cost=busy)) for stage in bar.stages]
    assert shares
    assert all(share.startswith("(") for share in shares)


def test_a_time_of_which_no_stage_is_known_has_no_bar() -> None:
    """A KV policy's bar was the rest of the model, all of it."""
    assert time_bars(result(cost=result()["cost"] | {"stages": {"rest of the model": 1.0}})) == []


def test_a_slow_model_has_its_milliseconds_in_full_and_no_exponent() -> None:
    slow = result()["cost"] | {"images_per_second": {"full": 0.5, "exact": 0.55, "variant": 0.55}}
    assert [bar.text for bar in time_bars(result(cost=slow))] == ["1,818 ms an image"] * 2


def test_where_nothing_is_wrong_there_is_no_warning_box(run_folder: Path, tmp_path: Path) -> None:
    assert ("class", "caveats") not in read_page(run_folder).attributes
    write_run(tmp_path / "bad", result(warnings=["made-up warning"]))
    assert ("class", "caveats") in read_page(tmp_path / "bad").attributes


def test_a_busy_machine_has_no_speed_on_the_page(tmp_path: Path) -> None:
    busy = {"quiet": False, "reasons": ["other processes took 1.0 of 2 cores while 2 were needed"]}
    write_run(tmp_path, result(cost=result()["cost"] | {"measurement": busy}))
    words = read_page(tmp_path).words
    assert "no measurement" in words.partition("Fidelity")[0]
    assert "other processes took 1.0 of 2 cores" in words
    shown = words.partition("How to make it again")[0]
    for figure in (
        "(9.50)",
        "(14.6)",
        "(1.19×)",
        "(81.6 ms an image, no measurement)",
        "(at most 1.30× as fast, were the swapped attention free)",
    ):
        assert figure in shown, figure
    assert "1.17, 1.21" not in shown
    assert "in brackets: no measurement" in shown
    assert "figures in brackets are no measurement" in shown


def test_an_attention_that_took_over_its_projections_is_not_held_to_the_limit_of_attention_alone(tmp_path: Path) -> None:
    stages = {"attention and its projections": 0.4, "rest of the model": 0.6}
    write_run(tmp_path, result(cost=result()["cost"] | {"stages": stages}))
    words = read_page(tmp_path).words
    assert "1.30× as fast, were the swapped attention alone free" in words
    assert "at most 1.30×" not in words
    assert "took over the projections round the attention too" in words
    assert "operations are counted as if they had run apart" in words


def test_an_answer_without_truth_says_what_was_asked_and_of_which_image(run_folder: Path) -> None:
    gallery = json.loads((run_folder / "gallery.json").read_text())
    gallery["flips"][0] |= {"truth": "", "full": "c.jpg", "variant": "d.jpg", "asked": "which other image is nearest to it"}
    (run_folder / "gallery.json").write_text(json.dumps(gallery))
    shown = read_page(run_folder).words.partition("Answers that changed")[2]
    assert shown.strip().startswith("which other image is nearest to it")
    assert "b.jpg" in shown.partition("c.jpg")[0]


def test_the_words_in_which_a_long_answer_differs_from_the_truth_are_marked(run_folder: Path) -> None:
    gallery = json.loads((run_folder / "gallery.json").read_text())
    truth = "a red cube left of a blue star above a green ring"
    gallery["flips"][0] |= {"truth": truth, "full": truth, "variant": truth.replace("blue", "grey")}
    (run_folder / "gallery.json").write_text(json.dumps(gallery))
    page = read_page(run_folder)
    assert page.tags.count("mark") == 1
    assert "above a green ring" in page.words


def test_answers_that_share_less_than_half_of_their_words_are_not_marked(run_folder: Path) -> None:
    assert "mark" not in read_page(run_folder).tags


def test_a_page_fits_a_phone(tmp_path: Path) -> None:
    write_run(tmp_path, result())
    page = read_page(tmp_path)
    assert ("name", "viewport") in page.attributes
    assert page.tags.count("table") == page.attributes.count(("class", "scroll"))


def test_titles_and_headings_break_within_a_path_that_is_wider_than_a_phone() -> None:
    css = (Path(fna.__file__).parent / "report/page.css.jinja").read_text(encoding="utf-8")
    (rule,) = [line for line in css.splitlines() if line.startswith("h1, ") and "overflow-wrap: anywhere" in line]
    assert {"h1", "h2", "h3", "nav li"} <= set(rule.partition(" {")[0].split(", "))
