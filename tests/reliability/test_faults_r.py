"""The command line, experiments of one's own, and what is left in a folder by an earlier run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fna import progress
from fna.errors import UserError
from fna.report.results import load
from fna.report.sweep import summarise
from fna.report.table import show_sweep
from fna.runner.words import check_words
from fna.tasks.own import Own
from tests.conftest import ROOT, Cli
from tests.reliability.lines import asked
from tests.report.made_up_results import result, write_run

QUICK = ("limit=6", "bootstrap=100", "timing.enabled=false", "gallery=0", "rows_dir=rows", "hydra.run.dir=run")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dtype=fp16", "did you mean float16?"),
        ("dtype=16", "did you mean float16?"),
        ("dtype=torch.bfloat16", "give float32, bfloat16 or float16"),
        ("dtype=bf16", "did you mean bfloat16?"),
        ("device=gpu", "did you mean cuda?"),
        ("device=cuda1", "did you mean cuda:1?"),
        ("device=0", "did you mean cuda:0?"),
        ("fp16=true", "did you mean dtype=float16?"),
        ("precision=torch.bfloat16", "did you mean dtype=bfloat16?"),
        ("precision=64", "dtype is float32, bfloat16, float16."),
    ],
)
def test_a_dtype_and_a_device_as_others_call_them_are_told_as_fna_does(word: str, said: str) -> None:
    found = asked([word])
    assert found is not None
    assert said in found


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an experiment of one's own, ``experiment=mine``."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path / "conf"))
    return tmp_path / "conf/experiment/mine.yaml"


def experiment(file: Path, text: str) -> None:
    file.write_text(f"# @package _global_\ndefaults:\n  - override /attn: fna\n{text}")


def swept(params: str, mode: str = "MULTIRUN") -> str:
    return f"hydra:\n  mode: {mode}\n  sweeper:\n    params:\n      {params}\n"


@pytest.mark.parametrize("params", ["attn: glob(fna*)", "attn: choice(fna,fna_plus)", "attn: 'fna, fna_plus'"])
def test_an_experiment_sweeps_over_options_in_all_of_hydras_ways(params: str, mine: Path) -> None:
    experiment(mine, swept(params))
    check_words(["experiment=mine", "landmarks=16"])


def test_what_such_a_sweep_does_not_use_is_refused_all_the_same(mine: Path) -> None:
    experiment(mine, swept("attn: choice(exact,low_rank)"))
    with pytest.raises(UserError, match="sampler=random: attn=exact and attn=low_rank does not draw"):
        check_words(["experiment=mine", "sampler=random"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (swept("landmarks: [16, 32]"), "landmarks=[16,32]: is one value to a sweep; write several as landmarks: 16,32"),
        (swept("landmarks: 16,32", "multirun"), "hydra.mode: multirun: write RUN or MULTIRUN, the latter for a sweep without -m"),
        ("attn.steps: 3\n", "attn.steps: YAML has no points in keys; write attn: and below it, indented, steps: ..."),
        ("timing.rounds: 3\n", "timing.rounds: YAML has no points in keys; write timing: and below it, indented, rounds: ..."),
    ],
)
def test_what_an_experiment_writes_in_another_way_is_told_with_its_file(text: str, said: str, mine: Path) -> None:
    experiment(mine, text)
    with pytest.raises(UserError) as raised:
        check_words(["experiment=mine"])
    assert str(raised.value) == f"{mine}: {said}"


@pytest.mark.parametrize(("knob", "value"), [("landmarks", "24"), ("landmarks", "0.5"), ("image_size", "128"), ("workers", "auto")])
def test_a_number_out_of_the_environment_is_one(knob: str, value: str, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", value)
    experiment(mine, f"{knob}: ${{oc.env:GIVEN}}\n")
    assert asked(["experiment=mine"]) is None
    assert asked([f"{knob}=${{oc.env:GIVEN}}"]) is None
    monkeypatch.setenv("GIVEN", "many")
    found = asked(["experiment=mine"])
    assert found is not None
    assert found.startswith(f"{knob}=many: give ")


def test_a_report_in_a_program_that_a_notebook_started_has_its_plots(tmp_path: Path) -> None:
    for count in (16, 32):
        write_run(tmp_path / str(count), result(landmarks=count))
    named = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Qt4Agg"}
    done = subprocess.run(
        [sys.executable, "-m", "fna.report", str(tmp_path)], env=named, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_a_backend_of_ones_own_is_left_as_it_was() -> None:
    code = (
        "from fna.report.canvas import svg_axes; svg_axes(3); import matplotlib, os; "
        "print(matplotlib.rcParams['backend'], os.environ['MPLBACKEND'])"
    )
    named = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "pdf"}
    done = subprocess.run([sys.executable, "-c", code], env=named, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["pdf", "pdf"], done.stderr


def test_a_bar_of_an_unknown_number_tells_how_many_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=said, width=100))
    with progress.bar("images", None) as advance:
        advance(12)
    assert "12 " in said.getvalue()
    assert "/?" not in said.getvalue()


def test_a_metric_without_a_name_is_not_told_twice() -> None:
    task = Own([], lambda images: images, lambda outputs, targets: outputs[:, 0] * float("nan"))
    with pytest.raises(UserError) as raised:
        task._scored(torch.zeros(2, 3), torch.zeros(2))
    assert str(raised.value).startswith("the metric gave NaN")


def test_figures_of_others_that_differ_in_one_setting_say_in_which(tmp_path: Path) -> None:
    others = tmp_path / "expected.csv"
    lines = (f"paper,made_up_vit,made_up_photos,{count},10000,top1,80,79" for count in (16, 32))
    others.write_text("\n".join(["source,model,dataset,landmarks,samples,metric,full,variant", *lines]))
    for count in (16, 32):
        write_run(tmp_path / str(count), result(landmarks=count, samples=200, expected=str(others)))
    (said,) = summarise(load(tmp_path)).sources
    assert said == "2 of 2 expected figures match no result: samples 10000 there, 200 here"


def test_a_failure_in_the_folder_of_the_report_itself_is_told_by_that_folders_name(tmp_path: Path) -> None:
    place = tmp_path / "tried"
    write_run(place, {"schema": 1, "status": "failed", "error": "out of memory", "overrides": []})
    write_run(place / "again", result())
    said = io.StringIO()
    show_sweep(load(place), Console(file=said, width=100))
    assert "failed in folder tried: out of memory" in said.getvalue()


def test_on_a_phone_a_number_at_the_left_says_of_what_it_is(tmp_path: Path) -> None:
    from fna.report.page import write_page

    for count in (16, 32):
        write_run(tmp_path / str(count), result(landmarks=count))
    page = write_page(tmp_path).read_text()
    assert '<td class=" number" data-head="landmarks">' in page
    assert 'td.number:first-child::before { display: inline; content: attr(data-head) " "' in page


def test_a_command_that_is_refused_leaves_the_result_of_an_earlier_one(cli: Cli, tmp_path: Path) -> None:
    assert cli(*QUICK).returncode == 0
    before = (tmp_path / "run/result.json").read_bytes()
    done = cli(*QUICK, "model.checkpoint=/nowhere.safetensors")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert (tmp_path / "run/result.json").read_bytes() == before
    assert "/nowhere" not in cli("run", module="fna.report").stdout
    assert "/nowhere" not in (tmp_path / "run/report.html").read_text()


def test_what_an_earlier_run_in_the_folder_wrote_does_not_stand_beside_the_result_of_another(cli: Cli, tmp_path: Path) -> None:
    classes = ("model=clip_shapes", "dataset=shapes_single", "task=classification")
    assert cli(*QUICK, *classes).returncode == 0
    run = tmp_path / "run"
    assert (run / "classes.csv").is_file()
    (run / "notes.csv").write_text("mine")
    (run / "tokens.json").write_text(json.dumps({"norms": {}}))  # of a run from before files were listed
    assert cli(*QUICK).returncode == 0
    assert not (run / "classes.csv").exists()
    assert (run / "notes.csv").read_text() == "mine"
    assert "What the tokens do" not in (run / "report.html").read_text()
