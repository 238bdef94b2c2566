"""Many contenders in one result: lines of one table, ties greyed, failures told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fna.report.contenders import apart, pairs
from fna.report.day import read_day
from fna.report.page import write_page
from fna.report.results import Run, load, setting
from fna.report.sweep import varying
from fna.report.table import write_markdown
from tests.report.made_up_results import result, write_run
from tests.report.test_table import printed


def contender(label: str, **changes: Any) -> dict[str, Any]:
    made = result(**changes)
    keys = ("attn", "sampler", "landmarks", "layers", "mask", "metrics", "fidelity", "cost", "status")
    return (
        {"label": label, "hash": label, "error": None} | {key: made[key] for key in keys} | {"status": changes.get("status", "ok")}
    )


@pytest.fixture
def versus(tmp_path: Path) -> Path:
    """One run of three contenders, one of which failed."""
    others = [
        contender("attn=fna landmarks=16", landmarks=16),
        contender("attn=nystromformer", attn="nystromformer"),
        {"label": "attn=low_rank", "attn": "low_rank", "status": "failed", "error": "made-up refusal", "hash": None},
    ]
    compared = {
        "a": "first", "b": "attn=fna landmarks=16",
        "metrics": {"top1": {"delta": -0.3, "ci": [-0.9, 0.2], "mcnemar_p": 0.31},
        "top5": {"delta": -2.0, "ci": [-3.0, -1.0], "mcnemar_p": 1e-5}},
    }  # fmt: skip
    return write_run(tmp_path, result(contenders=others, pairs=[compared]), pictures=True)


def test_each_contender_is_a_line_and_a_failed_one_is_told(versus: Path) -> None:
    runs = apart(load(versus))
    assert [(run.result["attn"], run.result["landmarks"], run.ok) for run in runs] == [
        ("fna", 64, True),
        ("fna", 16, True),
        ("nystromformer", 64, True),
        ("low_rank", 64, False),
    ]
    day = read_day(load(versus))
    assert [len(section.runs) for section in day.sections] == [3]
    assert day.failures[0][1] == "made-up refusal"
    assert "3 comparisons with full attention and 1 failure" in printed(load(versus))


def test_a_tie_is_grey(versus: Path) -> None:
    grid = pairs(load(versus)[0].result)
    assert grid is not None
    assert [(row[2].text, row[3].mark, row[5].text) for row in grid[1]] == [("top-1", "tie", "0.310"), ("top-5", "", "< 0.001")]
    page = write_page(versus).read_text()
    assert 'class="tie' in page
    assert "McNemar" in write_markdown(versus).read_text()
    assert page.count("The landmarks") == 1  # the pictures are of the first


def test_without_contenders_a_result_is_one_run(run_folder: Path) -> None:
    assert len(apart(load(run_folder))) == 1
    assert pairs(result()) is None
    assert len(apart(load(write_run(run_folder, result(contenders=[contender("me", hash="00aa11bb22cc")]))))) == 2


def test_the_first_variant_among_its_contenders_is_not_counted_twice(run_folder: Path) -> None:
    write_run(run_folder, result(contenders=[contender("me") | {"hash": "00aa11bb22cc"}]))
    assert len(apart(load(run_folder))) == 1


def test_pairs_call_the_contenders_as_the_table_does(tmp_path: Path) -> None:
    entries = [contender("fna"), contender("fna landmarks=16", landmarks=16), contender("nystromformer", attn="nystromformer")]
    metric = {"top1": {"delta": -0.3, "ci": [-0.9, 0.2]}}
    compared = [{"a": "fna", "b": "fna landmarks=16", "metrics": metric}, {"a": "fna", "b": "nystromformer", "metrics": metric}]
    grid = pairs(result(hash="fna", contenders=entries, pairs=compared))
    assert grid is not None
    assert [(row[0].text, row[1].text) for row in grid[1]] == [
        ("FNA, 64 landmarks", "FNA, 16 landmarks"),
        ("FNA, 64 landmarks", "Nyströmformer, 64 landmarks"),
    ]


def test_a_contender_has_no_words_that_were_typed_for_another_option(tmp_path: Path) -> None:
    """``kv=fna kv.budget=0.5 versus=["kv=random"]``: random has its own budget, and the tables say so."""
    own = contender("exact kv=random") | {"options": {"kv.budget": 0.25}}
    first = result(contenders=[own], overrides=["kv=fna", "kv.budget=0.5", "limit=8"], options={"kv.budget": 0.5})
    runs = apart(load(write_run(tmp_path, first)))
    assert [setting(run.result, "kv.budget") for run in runs] == [0.5, 0.25]
    assert [setting(run.result, "limit") for run in runs] == [8, 8]
    assert "kv.budget" in varying(runs)


@pytest.mark.parametrize("key", ["warnings", "notes"])
def test_a_line_about_the_whole_run_is_each_contenders_too(key: str) -> None:
    others = [{"hash": "a", "label": "first", key: ["of a"]}, {"hash": "b", "label": "second", key: ["of b"]}]
    run = Run(Path("run"), "run", {"hash": "a", key: ["of a", "of all"], "contenders": others})
    assert apart([run])[1].result[key] == ["of all", "of b"]
