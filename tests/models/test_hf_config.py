"""A Hugging Face folder whose config.json is damaged, or fits its weights in part only: one line, or a note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fna.errors import UserError
from fna.models.hf import HuggingFaceModel

CPU: Any = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}
VIT: dict[str, Any] = {
    "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32, "patch_size": 8,
}  # fmt: skip
KINDS = {"vit": VIT, "dinov2": {**VIT, "model_type": "dinov2", "architectures": ["Dinov2Model"]}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": "big"},
        {"hidden_size": 32.5},
        {"hidden_size": None},
        {"num_attention_heads": 0},
        {"patch_size": 0},
        {"hidden_act": "foo"},
        {"id2label": ["a", "b"]},
        {"model_type": ["vit"]},
    ],
    ids=str,
)
def test_a_setting_that_no_model_can_have_is_one_line_with_the_file(kind: str, wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**KINDS[kind], **wrong}))
    with pytest.raises(UserError, match=r"config\.json: "):
        HuggingFaceModel(checkpoint=str(tmp_path), random=True).build(**CPU)


@pytest.mark.parametrize("less", [{"num_hidden_layers": 1}, {"architectures": ["ViTModel"]}])
def test_tensors_that_the_config_has_no_use_for_are_counted_in_a_note(less: dict[str, Any], tmp_path: Path) -> None:
    net = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT))
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    whole = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    assert not [note for note in whole.notes if "not used" in note]
    (tmp_path / "config.json").write_text(json.dumps({**VIT, **less}))
    model = HuggingFaceModel(checkpoint=str(tmp_path)).build(**CPU)
    (note,) = (note for note in model.notes if "not used" in note)
    assert note.startswith(f"{tmp_path / 'pytorch_model.bin'}: ")
    assert model.depth == less.get("num_hidden_layers", 2)
