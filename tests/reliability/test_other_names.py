"""``model.name`` chooses another network than an option's own: what the YAML says of its own is not held against that one."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch

from tests.reliability.lines import asked


def test_a_checkpoint_of_another_network_needs_its_name_and_no_more(tmp_path: Path) -> None:
    """clip_l14 with ViT-S-32: depth=24 and patch_size=14 of the YAML were held against it, one refusal after the other."""
    file = tmp_path / "small.pt"
    torch.save(open_clip.create_model("ViT-S-32", load_weights=False).state_dict(), file)
    words = ["model=clip_l14", "model.name=ViT-S-32", f"model.checkpoint={file}", "dataset=shapes"]
    assert asked([*words, "model.pretrained=null"]) is None
    told = asked(words)
    assert told is not None
    assert "model.pretrained=null" in told
