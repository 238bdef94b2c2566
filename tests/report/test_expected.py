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
    assert "somebody: made_up_vit on made_up_photos" in summary.notes
    assert "77.00 (+7.00)" in sweep_markdown(runs)
    assert "78.00 (+8.00)" in markdown(runs[1].result)
    assert "77.00 (+7.00)" in read_page(tmp_path).words


def test_block_numbers_of_another_model_stand_apart_with_a_plot_of_their_own(tmp_path: Path) -> None:
    runs = load(starts(tmp_path, ELSEWHERE))
    summary = summarise(runs)
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
    assert found.beside(ours)["top1"].delta == -1
    assert found.beside(other) == {}
    assert found.tables() == []
    assert "Compare the order" in found.notes()[0]


def test_figures_of_full_attention_alone_are_named_so(tmp_path: Path) -> None:
    path = table(tmp_path, "landmarks", f"somebody,{HOME},64,top1,71.5,")
    assert "| 71.50 full |" in markdown(result(expected=path))


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), ("a,b\n1,2\n", "not a table"), ("", "")])
def test_a_file_that_is_gone_or_no_table_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "expected.csv"
    if content is not None:
        path.write_text(content)
    made: Result = result(expected=str(path))
    if said:
        with pytest.raises(UserError, match=said):
            read_figures(str(path))
        assert said in load_expected([made]).notes()[0]
    assert "71.05" in markdown(made)
