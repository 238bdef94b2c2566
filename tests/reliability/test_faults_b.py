"""What was found wrong once, by kind, and what is right: options and flags, sweeps, damaged files, checkpoints, CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated

import pytest
import timm
from safetensors.torch import save_file

from fna.errors import UserError
from fna.records import read_record, write_record
from fna.runner.cli import checked
from fna.runner.env import choose_device
from fna.values import held, within
from tests.reliability.lines import asked
from tests.runner.test_stored_rows import Job, images, run

__all__ = ["images", "run"]


@pytest.mark.parametrize(
    ("words", "said"),
    {
        # a list's items are held too: a rate of training below 0 makes a model worse, one of 0 leaves it as it was
        "dataset=shapes_single task=probe task.rates=[-1]": "task.rates=[-1]: give a list of rates, each from 1e-06 to 100.",
        "dataset=shapes_single task=probe task.rates=[0.1,0]": "task.rates=[0.1,0]: give a list",
        "dataset=shapes_segmented task.boundary=0": "task.boundary=0: give a number above 0 and up to 1.",
        "dataset=shapes_segmented task.boundary=1.5": "task.boundary=1.5: give a number above 0 and up to 1.",
        # norms, and how many times a middle, are above 0: below, every token would be massive
        "mask=both mask.threshold=0": "mask.threshold=0: give a number above 0 or null.",
        "mask=both mask.threshold=-1": "mask.threshold=-1: give a number above 0 or null.",
        # what Hydra does with an object is no option of it
        "+task._recursive_=false": "+task._recursive_=false: is Hydra's own business, no option",
        "+attn._partial_=true": "+attn._partial_=true: is Hydra's own business",
        "++model._args_=[1]": "++model._args_=[1]: is Hydra's own business",
        "attn._convert_=all": "attn._convert_=all: is Hydra's own business",
        # flags that Hydra passes over in silence, or ends in a traceback of
        "--config-dir=/nowhere": "--config-dir=/nowhere: no such folder",
        "--run --multirun": "--run and --multirun: each asks for something else; keep one.",
        "--cfg job -m": "--multirun and --cfg: each asks for something else; keep one.",
        "landmarks=16 --info searchpath --shell-completion install=bash": "--info and --shell-completion",
    }.items(),
)  # fmt: skip
def test_refused_in_one_line_that_names_the_word(words: str, said: str) -> None:
    found = asked(words.split())
    assert found is not None, "was taken"
    assert said in found


@pytest.mark.parametrize(
    "words",
    [
        "dataset=shapes_single task=probe task.rates=[0.1,1]",
        "dataset=shapes_segmented task.boundary=0.005",
        "dataset=shapes_segmented task.boundary=1",
    ],
)
def test_taken(words: str) -> None:
    assert asked(words.split()) is None


def test_one_way_of_running_at_a_time_is_taken(tmp_path: Path) -> None:
    for flags in (["--run"], ["--multirun"], ["--cfg", "job"], ["--info"], [f"--config-dir={tmp_path}"]):
        assert checked(flags)[: len(flags)] == flags


def test_a_bound_that_leaves_out_its_lower_end() -> None:
    kind = Annotated[float, within(0, 1)]
    assert held(kind, 1, "x") == 1
    for value in (0, 1.01, -1, float("nan")):
        with pytest.raises(UserError, match="above 0 and up to 1"):
            held(kind, value, "x")


def test_a_list_of_classes_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    said = asked(["model=clip", "dataset=camvid", f"dataset.root={tmp_path}", "dataset.classes=nonsense"])
    assert said is not None
    assert said.startswith("dataset.classes=nonsense: give a list [...], each a text, or one of ade20k, camvid")


def test_a_cpu_has_no_number() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("cpu:0") == "cpu:0"
    with pytest.raises(UserError, match=r"^device=cpu:99: there is one CPU"):
        choose_device("cpu:99")


def test_a_row_whose_key_has_another_name_is_made_again(run: Job, tmp_path: Path) -> None:
    """Sealed again as a whole, so that only what lies in it is wrong."""
    first = run()
    for file in (tmp_path / "rows").glob("*.json"):
        record = read_record(file)
        assert record is not None
        record["hsah"] = record.pop("hash")
        write_record(file, record)
    assert run()["metrics"] == first["metrics"]
    assert all("hash" in json.loads(file.read_text()) for file in (tmp_path / "rows").glob("*.json"))


def test_weights_made_at_another_size_run_at_that_size_and_classes_named_as_formulas_are_text(
    run: Job, images: Path, tmp_path: Path
) -> None:
    """As a user would: a ViT of 160 px on classes one of which is called ``=1+1``."""
    (images / "a").rename(images / "=1+1")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=160, num_classes=3)
    file = tmp_path / "v160.safetensors"
    save_file(vit.state_dict(), file)
    words = ("model.name=vit_tiny_patch16_224", "model.random=false", f"model.checkpoint={file}", "image_size=160")
    result = run(*words)
    assert (result["status"], result["image_size"]) == ("ok", [160, 160])
    with (tmp_path / "run" / "classes.csv").open(newline="") as opened:
        names = [row["class"] for row in csv.DictReader(opened)]
    assert "'=1+1" in names
    assert "=1+1" not in names


@pytest.mark.parametrize(
    ("words", "said"),
    {
        "dataset=shapes_single task=released_head": "task.checkpoint is needed: the file of a released linear head.",
        "dataset=shapes_single task=released_head task.checkpoint=/nope.pth": "task.checkpoint=/nope.pth: no such file",
        "dataset=shapes_segmented task.head.checkpoint=/nope.pth": "task.head.checkpoint=/nope.pth: no such file",
        "model=clip model.pretrained=nope": "model.pretrained=nope: zoo:clip_shapes is embedded in fna with its weights",
        "model=clip model.tokenizer=/nope": "model.tokenizer=/nope: no folder with a tokenizer",
        "model=clip model.checkpoint=https://host/w.pt": "https://host/w.pt: an address, not a path on this machine",
        "model=vit model.checkpoint='~nobody-such/w.pt'": "~nobody-such/w.pt: no such checkpoint: shells know ~ at the start of a",
    }.items(),
)
def test_what_is_wrong_with_weights_is_said_before_any_are_loaded(words: str, said: str) -> None:
    assert (asked(words.split()) or "was taken").startswith(said)
