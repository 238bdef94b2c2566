"""Cases of an eighth pair of eyes, what of them failed: image processors whose code does more than their settings say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from fna.errors import UserError
from fna.models.hf_classes import usual_steps
from fna.models.hf_files import preprocessing
from fna.models.hf_pixels import transform

# 4: weights run in another way than they were made for


def photograph(rows: int, columns: int) -> Image.Image:
    noise = torch.randint(0, 255, (rows // 8, columns // 8, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.byte().numpy()).resize((columns, rows))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LevitImageProcessor", {}),
        ("LevitImageProcessor", {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.95}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    ],
)
def test_a_processor_that_resizes_in_a_way_of_its_own_is_followed(name: str, said: dict[str, object], tmp_path: Path) -> None:
    processor = getattr(transformers, name)(**said)
    processor.save_pretrained(tmp_path)
    steps = preprocessing(tmp_path)
    for picture in (photograph(240, 400), photograph(480, 304)):
        expected = processor(picture, return_tensors="pt")["pixel_values"][0]
        made = transform(steps, (expected.shape[1], expected.shape[2]))(picture)
        assert (made - expected).abs().mean() < 0.02


@pytest.mark.parametrize(("kind", "resize", "crop"), [("levit", 256, [224, 224]), ("cvt", [384, 384], None)])
def test_so_is_the_usual_processor_of_a_kind_whose_folder_has_none(kind: str, resize: object, crop: object) -> None:
    steps = usual_steps(kind)
    assert (steps["resize"], steps["crop"]) == (resize, crop)


@pytest.mark.parametrize(
    ("name", "step"), [("DPTImageProcessor", "keep_aspect_ratio"), ("EfficientNetImageProcessor", "rescale_offset")]
)
def test_a_step_that_fna_does_not_take_is_refused_by_name(name: str, step: str, tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    getattr(transformers, name)(**{step: True}).save_pretrained(tmp_path)
    assert json.loads(file.read_text())[step] is True
    with pytest.raises(UserError, match=f"{step}=true: fna knows no such step"):
        preprocessing(tmp_path)


def test_a_share_that_nothing_can_be_divided_by_is_one_line(tmp_path: Path) -> None:
    said = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.0}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="ConvNextImageProcessor does not take it"):
        preprocessing(tmp_path)
