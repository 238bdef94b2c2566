"""What a refused command line leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fna.runner.leftovers import remove_bare

Cli = Callable[..., Any]


@pytest.mark.parametrize("typo", ["landmarks=0", "layers=99", "image_size=97", "dtype=float12", "attn.steps=-1"])
def test_a_typo_leaves_no_run_behind(cli: Cli, tmp_path: Path, typo: str) -> None:
    done = cli(typo)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(tmp_path.glob("outputs/runs/*"))


@pytest.mark.parametrize(
    "words",
    [
        ["model.checkpoint=nowhere.safetensors"],
        ["task=classification"],
        ["dataset=coco_captions", "dataset.root=empty"],
        ["mask=both", "mask.blocks=99"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_refused_while_loading_leaves_no_run_behind(cli: Cli, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/captions.json").write_text(
        '{"images": [{"id": 1, "file_name": "gone.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}'
    )
    done = cli(*words, "limit=4")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.glob("outputs/runs/*"))
    assert not list(tmp_path.rglob("result.json"))


def test_a_sweep_keeps_the_job_that_was_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("-m", "layers=99", "dataset.count=8")
    assert done.returncode == 1
    [file] = tmp_path.rglob("result.json")
    assert json.loads(file.read_text())["status"] == "failed"


def test_an_earlier_result_in_the_same_folder_stays(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("precious")
    cli("landmarks=0", "hydra.run.dir=mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "precious"


def test_only_a_folder_with_nothing_of_ours_is_removed(tmp_path: Path) -> None:
    bare, used = tmp_path / "bare", tmp_path / "used"
    for folder in (bare, used):
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra/config.yaml").write_text("a: 1")
    (used / "result.json").write_text("{}")
    assert remove_bare(bare)
    assert not bare.exists()
    assert not remove_bare(used)
    assert (used / "result.json").exists()
    assert not remove_bare(tmp_path / "nowhere")
