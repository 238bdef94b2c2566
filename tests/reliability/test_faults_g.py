"""Ten cases of a fresh pair of eyes, what of them failed: nested classes, clear pictures, silent waits, heads, parts of files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fna.data.imagefolder import ImageFolder
from fna.data.oddities import image_notes
from fna.errors import UserError
from fna.models import weights
from fna.models.timm_files import fit, read

ROOT = Path(__file__).parents[2]

# 1: a path that is not there becomes another question


def tree(root: Path, *names: str) -> ImageFolder:
    for name in names:
        (root / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / "val" / name)
    return ImageFolder(str(root), split="val")


def test_pictures_in_folders_inside_some_class_folders_are_noted_for_these_may_be_the_classes(tmp_path: Path) -> None:
    data = tree(tmp_path, "abbey/0.png", "church/indoor/0.png", "church/outdoor/0.png").load(None)
    assert data.classes == ["abbey", "church"]
    (note,) = data.notes
    assert note.startswith("2 of 3 pictures lie in folders inside class folders (first: church/indoor) and count as of the class")
    assert "move their folders beside the others" in note


@pytest.mark.parametrize("inner", ["", "images/"])
def test_a_folder_a_class_and_one_folder_of_the_same_name_in_each_are_no_oddity(inner: str, tmp_path: Path) -> None:
    assert tree(tmp_path, f"abbey/{inner}0.png", f"church/{inner}0.png").load(None).notes == []


# 5: pictures that lose what they hold


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "tif")])
def test_transparent_parts_are_noted_for_black_drawings_are_lost_in_what_lies_beneath(
    mode: str, suffix: str, tmp_path: Path
) -> None:
    clear, whole = tmp_path / f"clear.{suffix}", tmp_path / f"whole.{suffix}"
    Image.new(mode, (8, 8), (0,) * len(mode)).save(clear)
    Image.new(mode, (8, 8), (255,) * len(mode)).save(whole)
    (note,) = image_notes([clear, whole])
    assert f" with an alpha channel looked at have transparent parts (first: clear.{suffix})" in note
    assert "to have them on white" in note
    assert image_notes([whole]) == []


def test_a_palette_with_a_transparent_colour_is_noted_too(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "a.gif", transparency=0)
    (note,) = image_notes([tmp_path / "a.gif"])
    assert "have transparent parts (first: a.gif)" in note


# 14: two processes that want the same

ASKS = """
import sys, types
from pathlib import Path
from fna.tasks import answers
answers.answer = lambda talk, examples, *rest: [answers.Answer(one.key, "a", 1.0, 0.0) for one in examples]
answers._seen = lambda part, strict, skipped: ((one, None) for one in part)
talk = types.SimpleNamespace(processor=types.SimpleNamespace(tokenizer=lambda text: types.SimpleNamespace(input_ids=[])))
run = types.SimpleNamespace(progress=lambda n: None, batch_size=1, strict=False)
one = types.SimpleNamespace(key="k", question="q")
print(len(answers.answered(talk, [one], "", 4, Path(sys.argv[1]), run, [])))
"""
HOLDS = """
import sys, time
from pathlib import Path
from fna.records import only_one
with only_one(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


def started(code: str, file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(file)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_who_waits_for_the_answers_of_a_suspended_run_says_so(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with started(HOLDS, file) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        os.kill(first.pid, signal.SIGSTOP)
        with started(ASKS, file) as second:
            assert second.stderr is not None
            assert second.stdout is not None
            assert "another process is making it, waiting; if one was suspended (Ctrl-Z)" in second.stderr.readline()
            first.kill()
            assert second.stdout.read() == "1\n"
            assert second.wait() == 0


# 16: checkpoints

MODEL = "vit_tiny_patch16_224"


def small(**settings: int) -> torch.nn.Module:
    return timm.create_model(MODEL, depth=1, embed_dim=8, num_heads=1, **settings)


def body() -> dict[str, Tensor]:
    return small(num_classes=0).state_dict()


@pytest.mark.parametrize("head", ["head.0.weight", "head.mlp.2.weight", "head.last_layer.weight_g"])
def test_the_projection_head_of_training_without_labels_is_left_out_where_none_is_asked_for(head: str, tmp_path: Path) -> None:
    """MoCo v3 keeps it in the place of the classifier, beside a momentum encoder."""
    more = {"head.1.weight": torch.ones(4), "head.1.running_mean": torch.zeros(4), "head.3.weight": torch.zeros(4, 4)}  # as MoCo v3
    encoder = {**body(), head: torch.zeros(4, 8), **(more if head == "head.0.weight" else {})}
    saved = {f"module.{which}_encoder.{name}": tensor for which in ("base", "momentum") for name, tensor in encoder.items()}
    path = str(tmp_path / "moco.pth.tar")
    torch.save({"epoch": 300, "arch": "vit", "state_dict": saved, "optimizer": {"state": {}}}, path)
    net = small(num_classes=0)
    found, state, _ = read(path, net, None)
    assert found.part == "state_dict.base_encoder"
    assert found.others == ("state_dict.momentum_encoder",)
    (note,) = fit(path, state, net, MODEL)
    assert re.search(r"its projection head, which training without labels leaves \(\d tensors?\), was left out", note)
    classifier = small(num_classes=10)
    with pytest.raises(UserError, match=r"it has no head of classes, all else fits: give model\.num_classes=0"):
        fit(path, state, classifier, MODEL)


@pytest.mark.parametrize(
    ("index", "said"), [(True, r"give .*/model\.safetensors\.index\.json"), (False, "fetch the others and model")]
)
def test_a_part_of_a_checkpoint_given_alone_is_told_as_one(index: bool, said: str, tmp_path: Path) -> None:
    part = tmp_path / "model-00001-of-00002.safetensors"
    save_file(dict(list(body().items())[:4]), part)
    if index:
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    net = small(num_classes=0)
    with pytest.raises(UserError, match=f"are missing .*; it is one of 2 parts: {said}"):
        fit(str(part), read(str(part), net, None)[1], net, MODEL)
    with pytest.raises(UserError, match=f"; it is one of 2 parts: {said}"):
        weights.fit(net, weights.read(part), part, "a model")
