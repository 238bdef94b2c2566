"""Masks from the command line, on a small random ViT: the run, the third column, the study, the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import fna
from fna.configs import choices
from fna.errors import UserError
from fna.masking.strategy import Masking
from fna.ops.exact import Exact
from tests.conftest import Cli
from tests.surgery.zoo import images, run, zoo
from tests.test_conf import composed
from tests.test_run import one_line, results, words

QUICK = ("timing.enabled=false", "mask.detect=2", "mask.least=0", "mask.stands=0", "mask.cap=3")


def the_run(folder: Path) -> dict[str, Any]:
    (result,) = results(folder / "outputs" / "runs")
    return result


def test_a_masked_run_tells_what_it_did(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*words(image_folder, "mask=both", "mask.unmasked=true", *QUICK))
    assert done.returncode == 0, done.stderr
    result = the_run(tmp_path)
    assert (result["mask"], result["mask_start"], result["mask_blocks"], result["mask_detect"]) == ("both", 5, [5], 2)
    masked, unmasked = result["contenders"]
    assert (masked["hash"], unmasked["mask"]) == (result["hash"], "none")
    assert set(unmasked["metrics"]) == set(result["metrics"])
    assert unmasked["hash"] not in (result["hash"], result["rows"]["full"])
    bare = unmasked["fidelity"]["output_error"]
    assert result["fidelity"]["output_error"] != pytest.approx(bare)
    # The one without its mask is the row of an ordinary run.
    again = cli(*words(image_folder, "timing.enabled=false"))
    assert f"row {unmasked['hash']} is there" in again.stderr


def test_what_the_tokens_do_end_to_end(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    done = cli(*words(image_folder, "task=tokens", "task.study=3", "task.ranks=[1,2]", "timing.enabled=false"))
    assert done.returncode == 0, done.stderr
    result = the_run(tmp_path)
    assert {"massive_per_image", "artifact_per_image", "largest_norm"} <= set(result["metrics"])
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    study = json.loads((folder / "tokens.json").read_text())
    assert len(study["suppression"]) == 6
    page = (folder / "report.html").read_text()
    assert "What the tokens do" in page
    assert "Rules against each other" in page
    assert len(json.loads((folder / "gallery.json").read_text())["tokens"]) == 2


ASKS = [("attn=low_rank", "attn.partition=true", "landmarks=2"), ("sampler=guaranteed", "sampler.massive=keep", "landmarks=8")]


@pytest.mark.parametrize("asked", ASKS)
def test_what_asks_for_found_tokens_runs_with_a_mask_that_finds_them_and_is_refused_without(
    cli: Cli, image_folder: Path, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    said = one_line(cli(*words(image_folder, *asked, "timing.enabled=false")))
    assert "asks for massive tokens" in said
    assert "mask=found does" in said
    shutil.rmtree(tmp_path / "outputs")
    done = cli(*words(image_folder, *asked, "mask=found", *QUICK))
    assert done.returncode == 0, done.stderr
    assert the_run(tmp_path)["status"] == "ok"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mask.rule=guess", "mask.rule=guess: give channel, cls_proxy"),
        ("mask.mode=drown", "give mask or sink"),
        ("mask.pattern=type3", "type1, type2"),
        ("mask.blocks=9", "this model has blocks 0-5"),
        ("mask.detect=99", "mask.detect=99: give 0 <= first <= detect <= 5"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, image_folder: Path, word: str, said: str) -> None:
    assert said in one_line(cli(*words(image_folder, "mask=both", word)))


def test_registers_without_outliers_say_so(cli: Cli, image_folder: Path) -> None:
    assert "no patch token has a norm above" in one_line(cli(*words(image_folder, "mask=test_time_registers")))


def test_the_library_masks_by_name_and_by_object() -> None:
    model, x = zoo("timm"), images()
    with torch.inference_mode():
        with fna.swap(model, "exact", layers="all"):
            bare = run(model, x)
        with fna.swap(model, "exact", layers="all", mask=Masking(factor=0.0, least=0.0, stands=0.0, cap=2)):
            masked = run(model, x)
        with fna.swap(model, "exact", layers="all", mask="both"):
            run(model, x)
    assert (masked - bare).abs().max() > 1e-4
    with pytest.raises(UserError, match="no register neurons yet"):
        fna.swap(model, "exact", mask="test_time_registers")
    with pytest.raises(UserError, match="no such mask"):
        fna.swap(model, "exact", mask="carnival")
    with pytest.raises(UserError, match="mask=3: give a name of conf/mask"):
        fna.swap(model, "exact", mask=3)


@pytest.mark.parametrize("given", [{"landmarks": 32}, {"foo": None}, {"sampler": "random"}])
def test_an_attention_of_your_own_has_its_options_already(given: dict[str, Any]) -> None:
    q, refusal = torch.zeros(1, 2, 5, 4), f"Exact is made already: give it {next(iter(given))} yourself"
    with pytest.raises(UserError, match=refusal):
        fna.swap(zoo("timm"), Exact(), **given)
    with pytest.raises(UserError, match=refusal):
        fna.attention(q, q, q, Exact(), **given)
    fna.swap(zoo("timm"), Exact(), landmarks=64).restore()


@pytest.mark.parametrize(
    "name", [name for name in choices("experiment") if name.startswith(("masking", "landmark", "iterative", "low", "test_time"))]
)
def test_experiments_compose(name: str) -> None:
    cfg = composed(f"experiment={name}")
    if name.endswith("_coco"):
        assert (cfg.mask.detect, cfg.mask["first"], cfg.mask.least, cfg.mask.stands) == (13, 9, 0, 0)
        assert cfg.dataset.name == "coco_val2017"
