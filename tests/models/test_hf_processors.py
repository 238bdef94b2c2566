"""Image processors of transformers: what fna makes of a picture is what they make of it, or it is refused by their name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from fna.errors import UserError
from fna.models.hf_classes import usual_steps, usually
from fna.models.hf_files import preprocessing
from fna.models.hf_pixels import transform

NEAR = 0.01  # of the range


def names() -> Iterator[str]:
    """Every image processor that transformers has for a kind of model."""
    for found in IMAGE_PROCESSOR_MAPPING_NAMES.values():
        yield from (name for name in (found.values() if isinstance(found, dict) else [found]) if name)


def photograph(rows: int, columns: int) -> Image.Image:
    coarse = np.random.default_rng(1).integers(0, 256, (rows // 8, columns // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC)


def one(made: Any) -> Tensor:
    """The picture, which other than [3, h, w] has only axes of one."""
    found = made if isinstance(made, Tensor) else next(value for key, value in made.items() if key.startswith("pixel_values"))
    return found.reshape(found.shape[-3:])


def folder(name: str, place: Path, **said: Any) -> tuple[Any, Path]:
    processor = getattr(transformers, name)(**said)
    processor.save_pretrained(place)
    return processor, place


def held_against(name: str, place: Path) -> str:
    """What is said of a folder with that processor; what is taken has to come to its pixels."""
    processor, place = folder(name, place)
    try:
        steps = preprocessing(place)
    except UserError as error:
        return str(error)
    usual = {"interpolation": "bicubic", "resize": None, "crop": None}
    for rows, columns in ((53, 91), (97, 62)):
        theirs = one(processor(photograph(rows, columns), return_tensors="pt"))
        side = min(theirs.shape[1:])
        if not isinstance(steps["resize"], list):  # of what it leaves in its own shape, fna runs the middle
            theirs = theirs[:, (theirs.shape[1] - side) // 2 :, (theirs.shape[2] - side) // 2 :][:, :side, :side]
        ours = transform({**usual, **steps}, (theirs.shape[1], theirs.shape[2]))(photograph(rows, columns))
        assert ((ours - theirs).abs() * torch.tensor(steps["std"])[:, None, None]).mean() < NEAR, name
    return ""


@pytest.mark.parametrize("name", ["ViTImageProcessor", "CLIPImageProcessor", "SuperPointImageProcessor", "VideoMAEImageProcessor"])
def test_a_processor_that_resizes_crops_and_normalises_is_followed(name: str, tmp_path: Path) -> None:
    """SuperPoint's normalises by no mean and std at all."""
    assert held_against(name, tmp_path) == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GLPNImageProcessor", "size_divisor=32: fna knows no such step"),
        ("TextNetImageProcessorPil", "size_divisor=32: fna knows no such step"),
        ("EfficientNetImageProcessor", "(include_top=true), which fna does not follow"),
        ("PoolFormerImageProcessor", "does more to a picture"),
        ("PerceiverImageProcessor", "does more to a picture"),
        ("Siglip2ImageProcessor", "does more to a picture"),
        ("BridgeTowerImageProcessor", "do_pad: fna knows no such step"),
    ],
)
def test_one_whose_code_does_more_than_its_settings_say_is_refused_by_name(name: str, said: str, tmp_path: Path) -> None:
    assert said in held_against(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*names()} - {"TimmWrapperImageProcessor"}))
def test_every_processor_of_transformers_is_followed_or_refused_in_a_line_that_names_what(name: str, tmp_path: Path) -> None:
    found = held_against(name, tmp_path)
    assert "\n" not in found
    assert found == "" or found.startswith(f"{tmp_path / 'preprocessor_config.json'}: ")


def test_settings_of_older_files_are_taken_as_their_class_takes_them(tmp_path: Path) -> None:
    said = {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2, "do_resize": True, "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**said, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    assert preprocessing(tmp_path)["resize"] == [224, 224]


def test_where_no_file_says_so_what_the_usual_processor_does_besides_is_said() -> None:
    assert usual_steps("glpn")["mean"] == [0.0] * 3
    assert usually("glpn") == (
        "as glpn usually is but for what its GLPNImageProcessor does to a picture beyond resizing, cropping and normalising"
    )
    assert usual_steps("yolos")["mean"] == [0.485, 0.456, 0.406]  # whose longest side no size of fna's follows
    assert usually("beit") == "as beit usually is"
