"""The weights that ship with fna: what is in the folder fits together, and is what the card says."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fna.data.scene_captions import full_caption, swapped_captions
from fna.data.scenes import make_scene

HOME = Path(__file__).parents[1] / "fna/models/zoo/clip_shapes"


def load(folder: Path = HOME):
    """As the README does it."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=f"{folder}/merges.txt.gz")
    return model.eval(), transform, tokenizer


def test_the_weights_are_those_of_the_card() -> None:
    found = hashlib.sha256((HOME / "model.safetensors").read_bytes()).hexdigest()
    assert (HOME / "model.sha256").read_text().split() == [found, "model.safetensors"]
    assert found in (HOME / "card.md").read_text()
    assert (HOME / "model.safetensors").stat().st_size <= 15e6


def test_the_first_200_losses_are_recorded() -> None:
    with (HOME / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows[:200]] == list(range(200))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 2


def test_shape_of_the_model() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, _, _ = load()
    visual = model.visual
    assert visual.grid_size[0] * visual.grid_size[1] + 1 == 1025
    assert {block.attn.embed_dim // block.attn.num_heads for block in visual.transformer.resblocks} == {64}
    model.train()  # the fast path of eval hides attention from the counter
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_image(torch.zeros(1, 3, 256, 256))
    assert 3e9 < counter.get_total_flops() <= 14e9


def test_every_word_of_a_caption_is_one_token() -> None:
    _, _, tokenizer = load()
    for seed in range(50):
        for text in (full_caption(make_scene(seed)), *swapped_captions(make_scene(seed), 2)):
            words = text.replace(",", " ,").split()
            assert len(tokenizer.encode(text)) == len(words) <= tokenizer.context_length - 2
            assert tokenizer.decode(tokenizer.encode(text)).split() == words
    assert tokenizer.vocab_size == json.loads((HOME / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]["vocab_size"]
    assert len(tokenizer.encode("two giraffes")) > 2  # other words fall apart into letters


def test_it_tells_scenes_apart(tmp_path: Path) -> None:
    from PIL import Image

    from fna.data.scene_drawing import draw

    model, transform, tokenizer = load()
    scenes = [make_scene(seed) for seed in range(16)]
    with torch.no_grad():
        images = torch.stack([transform(Image.fromarray(draw(scene, 256)[0])) for scene in scenes])
        seen = model.encode_image(images, normalize=True)
        told = model.encode_text(tokenizer([full_caption(scene) for scene in scenes]), normalize=True)
    right = torch.arange(16)
    assert ((seen @ told.T).argmax(1) == right).float().mean() > 0.8
    assert ((seen @ told.T).argmax(0) == right).float().mean() > 0.8


@pytest.mark.slow
def test_twins_leave_full_attention_room_and_show_what_an_approximation_loses() -> None:
    """50 scenes and their twins; README and card have 250."""
    import fna
    from fna.data.scene_drawing import draw
    from fna.data.scene_files import scenes_of

    model, _, tokenizer = load()
    scenes = scenes_of("test", 100, "twins")
    pixels = torch.from_numpy(np.stack([draw(scene, 256)[0] for scene in scenes])).permute(0, 3, 1, 2) / 127.5 - 1

    def recall() -> list[float]:
        """R@1, image to text and text to image."""
        with torch.no_grad():
            seen = torch.cat([model.encode_image(part, normalize=True) for part in pixels.split(25)])
            told = model.encode_text(tokenizer([full_caption(scene) for scene in scenes]), normalize=True)
        return [100 * ((seen @ told.T).argmax(axis) == torch.arange(100)).float().mean().item() for axis in (1, 0)]

    full = recall()
    assert all(70 <= value <= 95 for value in full), full
    with fna.swap(model, "fna", layers="all", landmarks=16):
        found = recall()
    assert all(value < before - 20 for value, before in zip(found, full, strict=True)), (found, full)


def test_a_tampered_file_is_refused(tmp_path: Path) -> None:
    from fna.errors import UserError
    from fna.models.weights import check_file

    digest = (HOME / "model.sha256").read_text().split()[0]
    check_file(HOME / "model.safetensors", digest)
    copy = tmp_path / "model.safetensors"
    shutil.copy(HOME / "model.safetensors", copy)
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(UserError, match="sha256"):
        check_file(copy, digest)


SCRIPTS = HOME.parents[3] / "scripts"


def python(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=SCRIPTS, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_training_gives_the_recorded_losses() -> None:
    """The first three steps, in float32, so that it holds on any make of processor; without `--steps` all that are recorded."""
    done = python(SCRIPTS / "train_clip_shapes.py", "--steps", "3", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("change", ["SEED = 1", "WARM_UP = 44", "PARTS['patch'] = 4.01", "STAGES = STAGES[1:]"])
def test_another_recipe_does_not_give_the_recorded_losses(change: str) -> None:
    """A seed, a learning rate, a weight, a batch that is not the recorded one: each is seen in three steps."""
    code = f"import train_clip_shapes as recipe; recipe.{change.replace('STAGES[1', 'recipe.STAGES[1')}"
    done = python(
        "-c", f"{code}\nraise SystemExit(recipe.check(recipe.first_losses(3, 1), recipe.HOME / 'losses_float32.csv', 'loss'))"
    )
    assert "furthest apart" in done.stdout, done.stderr
    assert done.returncode == 1


def test_fnas_own_loader_takes_the_folder_and_refuses_a_changed_one(tmp_path: Path) -> None:
    from fna.errors import UserError
    from fna.models.open_clip import OpenClipModel

    model = OpenClipModel("zoo:clip_shapes", domain="generated").build(image_size=None, device="cpu", dtype="float32", seed=0)
    assert (model.token_count, model.depth, model.weights.domain) == (1025, 8, "generated")
    assert model.encode_text is not None
    plain, _, tokenizer = load()
    with torch.no_grad():
        assert torch.equal(model.encode_text(["a red circle"]), plain.encode_text(tokenizer(["a red circle"])))
    folder = shutil.copytree(HOME, tmp_path / "clip_shapes")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="sha256"):
        OpenClipModel(f"local-dir:{folder}").build(image_size=None, device="cpu", dtype="float32", seed=0)
