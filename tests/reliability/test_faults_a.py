"""Small cases of faults that were found once, and the right behaviour of each, as a user meets them: kinds 1 to 10 of issue 11."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fna
from fna.data.imagefolder import ImageFolder
from fna.data.pictures import open_image
from fna.errors import UserError
from fna.tasks.classification import Classification
from fna.tasks.texts import shared_names
from tests.conftest import Cli
from tests.reliability.lines import asked


def test_tiny_imagenet_as_downloaded_is_no_folder_a_class(tmp_path: Path) -> None:
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "val_annotations.txt").write_text("0.png\tn01443537\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "images" / "0.png")
    with pytest.raises(UserError, match=r"one class alone .* Tiny-ImageNet's own val folder: read it with dataset=tiny_imagenet"):
        ImageFolder(str(tmp_path)).check()


def test_classes_of_one_name_are_known() -> None:
    assert shared_names(["sunglasses", "tench", "sunglasses"]) == ["sunglasses"]
    assert shared_names(["crane, bird", "crane, machine"]) == []


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 4096).reshape(64, 64).astype("uint16")).save(tmp_path / "0.png")
    assert np.asarray(open_image(tmp_path / "0.png")).mean() == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize(
    "words", [("attn=fna", "attn.landmarks=7"), ("attn=low_rank", "attn.rank=3"), ("sampler=random", "sampler.seed=5")]
)
def test_a_key_that_a_root_knob_sets_is_refused(words: tuple[str, ...]) -> None:
    said = asked(words)
    assert said is not None
    assert "follows" in said


def test_a_float_mask_is_no_mask() -> None:
    q = torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match="keys must be bool"):
        fna.attention(q, q, q, "exact", keys=torch.zeros(1, 5))


@pytest.mark.parametrize("template", ["a {} of {kind}", "{} {}", "a {0}", "no place"])
def test_templates_with_another_brace_are_refused_before_anything_is_loaded(template: str) -> None:
    with pytest.raises(ValueError, match=r"put \{\} where the class name goes"):
        Classification(templates=[template])


def test_a_sweep_whose_jobs_share_one_folder_is_refused(cli: Cli) -> None:
    """Each would write over the one before, and the sweep exit 0."""
    done = cli("-m", "attn=fna", "landmarks=16,8", "hydra.sweep.subdir=same")
    assert done.returncode == 1
    assert "hydra.sweep.subdir=same: a job would write over another one in same" in done.stderr
