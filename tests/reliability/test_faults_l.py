"""Cases of a ninth pair of eyes, what of them failed: own methods written in other ways, ``exit()``, weights shared over depth."""

from __future__ import annotations

import copy
import importlib
import random
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fna
from fna.configs import instantiate
from fna.errors import UserError
from fna.models.open_clip import OpenClipModel
from fna.models.timm import TimmModel
from fna.options import load_option
from fna.runner import loaded
from fna.runner.failures import mendable
from fna.versions import settings
from tests.conftest import ROOT, Cli

# 6 and 7: a row is that of its own settings


class Private:
    def __init__(self, keep: Any) -> None:
        self._keep = keep

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: object) -> torch.Tensor:
        return self._keep * v


class Slotted:
    __slots__ = ("_keep",)

    def __init__(self, keep: float) -> None:
        self._keep = keep


class Sized(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(rank))


def closed(keep: float) -> Callable[..., Any]:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: object) -> torch.Tensor:
        return keep * v

    return attend


def with_default(keep: float) -> Callable[..., Any]:
    return lambda q, k, v, site, share=keep: share * v


@pytest.mark.parametrize(
    "make",
    [
        Private,
        Slotted,
        lambda keep: Sized(int(8 * keep)),
        closed,
        with_default,
        lambda keep: Private(keep).__call__,
        lambda keep: partial(closed(keep), None),
        lambda keep: Private(closed(keep)),
        lambda keep: Private(torch.tensor([keep])),
        lambda keep: Private(np.array([keep])),
        lambda keep: Private(random.Random(keep)),
        lambda keep: Private(np.random.default_rng(int(8 * keep))),
        lambda keep: Private(re.compile(str(keep))),
        lambda keep: Private(Path(str(keep))),
        lambda keep: Private({"a": [Private(keep)]}),
    ],
)
def test_whatever_way_a_method_keeps_its_options_two_values_are_two_settings(make: Callable[[float], Any]) -> None:
    assert settings(make(0.5)) == settings(make(0.5))
    assert settings(make(0.5)) != settings(make(1.0))


def test_an_object_that_holds_itself_has_settings() -> None:
    first, second = Private(1.0), Private(2.0)
    first.itself, second.itself = first, second  # type: ignore[attr-defined]
    assert settings(first) != settings(second)


def test_compare_gives_contenders_that_differ_in_a_private_attribute_a_figure_each() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4, depth=2).eval()
    loader = DataLoader(TensorDataset(torch.randn(6, 3, 32, 32)), batch_size=3)
    found = fna.compare(model, loader, Private(1.0), versus=[Private(1.0e3)], layers="all", rounds=0)
    first, second = (one["fidelity"]["output_error"] for one in found.result["contenders"])
    assert first != second


DATA = """
from pathlib import Path
from fna.data.base import Labelled
from fna.data.bank import LabelledDataset

class Mine:
    def load(self, limit):
        examples = [Labelled(str(number), Path(f"{{number}}.png"), {label}) for number in range(4)]
        return LabelledDataset("mine", "val", "photographs", "one digest for all", examples, ["a", "b"])
"""


def test_a_data_set_of_ones_own_that_labels_otherwise_gives_other_rows_whatever_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    seen = []
    for label in ("number % 2", "number % 2", "0"):
        (tmp_path / "own_labels.py").write_text(DATA.format(label=label))
        sys.modules.pop("own_labels", None)
        source = importlib.import_module("own_labels").Mine()
        seen.append(loaded._own(SimpleNamespace(model=TimmModel("vit_tiny_patch16_224"), dataset=source), source.load(None)))  # type: ignore[arg-type]
    sys.modules.pop("own_labels")
    assert seen[0] == seen[1] != seen[2]
    assert seen[0]["own"]["samples"] != seen[2]["own"]["samples"]


# 8 and 19: what ends the program

METHOD = """
import sys

class Leaves:
    def __call__(self, q, k, v, site):
        if q.shape[-2] > 100:
            {way}
        return v
"""


@pytest.mark.parametrize("way", ["exit()", "sys.exit(3)", "raise SystemExit"])
def test_an_exit_left_in_a_method_fails_its_job_alone(way: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "attn").mkdir()
    (tmp_path / "attn" / "leaves.yaml").write_text("_target_: leaving.Leaves\n")
    (tmp_path / "leaving.py").write_text(METHOD.format(way=way))
    words = "-m attn=exact,leaves,fna model=clip dataset.count=4 timing.enabled=false gallery=0 bootstrap=100"
    done = cli(*words.split(), env={"FNA_CONF_DIR": str(tmp_path), "PYTHONPATH": f"{ROOT}:{tmp_path}"})
    assert done.returncode == 1
    assert "leaving.py:7: ends the program" in done.stderr
    assert "1 of 3 jobs failed" in done.stderr
    assert sorted(path.parent.name for path in tmp_path.rglob("result.json")) == ["0", "1", "2"]


def test_the_line_that_called_exit_is_named() -> None:
    with pytest.raises(SystemExit) as left:
        sys.exit(2)
    assert str(mendable(left.value)).startswith(f"{__file__}:")
    assert "exit status 2" in str(mendable(left.value))


# 9: surgery on models that share weights


def test_blocks_that_are_one_module_are_refused_and_no_other_tool_is_blamed() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=4).eval()
    apart = copy.deepcopy(model)
    model.blocks = nn.Sequential(*[model.blocks[0]] * 4)
    for layers in ("all", "last-half", "3"):
        with pytest.raises(UserError, match=r"blocks 0 and 1 of this timm.VisionTransformer are one module.*copy.deepcopy"):
            fna.swap(model, "fna", layers=layers, landmarks=16)
    apart.blocks[3].attn = apart.blocks[2].attn
    with pytest.raises(UserError, match=r"blocks 2 and 3 .* have one attention between them"):
        fna.swap(apart, "fna", layers="3", landmarks=16)
    with fna.swap(apart, "fna", layers="0,1", landmarks=16):
        pass


# 9: blocks run by hand, some of them now and some later


def run_blocks(model: Any, x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    for block in model.blocks[first:last]:
        x = block(x)
    return x


def embedded(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model._pos_embed(model.patch_embed(x))


@pytest.fixture
def halves() -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A small ViT and two batches."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=6).eval(), *torch.randn(2, 2, 3, 64, 64)


@torch.inference_mode()
def test_halves_that_are_run_apart_give_what_a_whole_pass_gives(halves: tuple[Any, torch.Tensor, torch.Tensor]) -> None:
    """The first blocks of two batches, then the changed ones of each: each has landmarks of its own, shared by its blocks."""
    model, a, b = halves
    with fna.swap(model, "fna", layers="3-5", landmarks=4), warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = [run_blocks(model, embedded(model, x), 0, 6) for x in (a, b)]
        kept = [run_blocks(model, embedded(model, x), 0, 3) for x in (a, b)]
        for x, expected in zip(kept, whole, strict=True):
            assert torch.equal(run_blocks(model, x, 3, 6), expected)


@torch.inference_mode()
def test_no_batch_runs_on_with_the_landmarks_of_another(halves: tuple[Any, torch.Tensor, torch.Tensor]) -> None:
    model, a, b = halves
    other = "block 3 was given something else than block 2 gave, after a pass that did not run to its end"
    swap = fna.swap(model, "fna", layers="all", landmarks=4)
    kept = [run_blocks(model, embedded(model, x), 0, 3) for x in (a, b)]
    with pytest.raises(UserError, match=other):
        run_blocks(model, kept[0], 3, 6)
    swap.restore()
    with fna.swap(model, "fna", layers="all", landmarks=4), pytest.warns(UserWarning, match="block 3 was called outside a pass"):
        late = run_blocks(model, kept[0], 3, 6)
    with fna.swap(model, "fna", layers="3-5", landmarks=4):
        assert torch.equal(run_blocks(model, kept[0], 3, 6), late)


@torch.inference_mode()
def test_a_pass_that_stopped_early_disturbs_none_after_it(halves: tuple[Any, torch.Tensor, torch.Tensor]) -> None:
    model, a, b = halves
    with fna.swap(model, "fna", layers="all", landmarks=4), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = model(b)
        run_blocks(model, embedded(model, a), 0, 3)
        assert torch.equal(model(b), expected)


# 17: names as other libraries have them


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-L/14", "did you mean ViT-L-14?"),
        ("vit-b-32", "did you mean ViT-B-32?"),
        (
            "openai/clip-vit-large-patch14",
            "once it is downloaded, model=hf model.checkpoint=FOLDER runs openai/clip-vit-large-patch14",
        ),
    ],
)
def test_a_name_of_another_library_is_told_what_it_is_here(name: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        OpenClipModel(name, random=True).check()
    assert said in str(refused.value)


# Second newcomer: pictures two folders below, class names in the place of a file


def test_no_scene_is_drawn_where_pictures_of_ones_own_lie_in_class_folders_of_a_split(tmp_path: Path) -> None:
    picture = tmp_path / "train" / "cat" / "a.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(picture)
    with pytest.raises(UserError, match=r"holds pictures \(a.png\), and dataset=\w+ draws its own"):
        instantiate(OmegaConf.merge(load_option("dataset", "shapes"), {"root": str(tmp_path), "count": 2})).load(2)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_class_names_in_the_place_of_a_file_are_told_what_the_file_holds() -> None:
    with pytest.raises(UserError, match="give a TSV file: in each line a class's folder, a tab, its name"):
        instantiate(OmegaConf.merge(load_option("dataset", "imagefolder"), {"root": "x", "classes": ["cat", "dog"]}))


@pytest.mark.parametrize(
    ("group", "name", "said"),
    [
        ("attn", "full", "full attention always runs beside; attn=exact"),
        ("dataset", "coco", "dataset=coco_captions"),
        ("dataset", "./photos", "dataset=images dataset.root=./photos"),
        ("model", "dino", "model=dinov2 takes"),
    ],
)
def test_a_word_that_means_another_option_is_told_which(group: str, name: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_option(group, name)
    assert said in str(refused.value)
