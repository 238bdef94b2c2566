"""The recipe of clip_shapes: its own forward is open_clip's, and a step's batch depends on the step alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

ROOT = Path(__file__).parents[1]
HOME = ROOT / "fna/models/zoo/clip_shapes"
sys.path.append(str(ROOT / "scripts"))

from clip_shapes_batches import Batches, Stage, attributes, patch_owners, prompts  # noqa: E402
from clip_shapes_losses import BACKGROUND, CLAIMS, Helper, claims, groups, losses, read, see  # noqa: E402

from fna.data.scenes import COLOURS, SHAPES, make_scene  # noqa: E402

STAGES = (
    Stage(sizes=(64,), keep=(20,), batch=4, single=2, swaps=0, rate=1e-3, steps=3),
    Stage(sizes=(128, 96), keep=(50, 40), batch=3, single=1, swaps=2, rate=1e-3, steps=3),
)


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.create_model(f"local-dir:{HOME}", load_weights=False).eval()


def test_our_forward_is_open_clips(model: open_clip.CLIP) -> None:
    pixels, ids = torch.randn(2, 3, 256, 256), torch.randint(1, 700, (3, 12))
    ids[:, -1] = 728
    padded = torch.zeros(3, 77, dtype=torch.long)
    padded[:, :12] = ids
    with torch.no_grad():
        assert torch.allclose(see(model.visual, pixels)[0], model.encode_image(pixels, normalize=True), atol=1e-5)
        assert torch.allclose(read(model, ids), model.encode_text(padded, normalize=True), atol=1e-5)
        everything = torch.arange(1024).expand(2, -1)
        assert torch.allclose(see(model.visual, pixels, everything)[0], see(model.visual, pixels)[0], atol=1e-5)


def test_a_batch_depends_on_the_step_alone() -> None:
    data = Batches(STAGES, str(HOME))
    again = Batches(STAGES, str(HOME))
    data[0]
    one, other = data[4], again[4]
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(one["texts"], data[5]["texts"])
    assert len(data) == 6


@pytest.mark.parametrize("step", [0, 4])
def test_every_loss_reaches_the_towers(model: open_clip.CLIP, step: int) -> None:
    batch = {name: torch.as_tensor(value) for name, value in Batches(STAGES, str(HOME))[step].items()}
    helper = Helper(model.visual.output_dim)
    for name, loss in losses(model, helper, batch).items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert torch.isfinite(loss), name
        assert model.visual.conv1.weight.grad.abs().max() > 0, name


def test_prompts_stand_where_the_losses_look() -> None:
    told = prompts("{}")
    assert told[BACKGROUND] == "background"
    scene = make_scene(5)
    rows = torch.from_numpy(attributes(scene))[: len(scene.things)]
    for thing, row in zip(scene.things, rows, strict=True):
        words = [told[rows_of.start + int(right)] for rows_of, right in groups(row[None])]
        shape = f"{thing.colour} {thing.shape}"
        assert words == [shape, thing.shape, *(f"{word} shape" for word in (thing.colour, thing.size, thing.texture))]


def test_claims_tell_a_swapped_scene_apart() -> None:
    rows = torch.from_numpy(np.stack([attributes(make_scene(seed)) for seed in range(40)]))
    swapped = rows.clone()
    swapped[:, :2, 1] = rows[:, [1, 0], 1]  # colours of the first two things
    changed = (rows[:, 0, 1] != rows[:, 1, 1]).numpy()
    assert claims(rows).shape == (40, CLAIMS)
    assert ((claims(rows) != claims(swapped)).any(1).numpy() == changed).all()


def test_owners_of_patches() -> None:
    owners = np.zeros((1, 16, 16), np.uint8)
    owners[0, :8, 8:] = 2
    owners[0, 8:, :2] = 1  # a quarter of the patch: undecided
    assert patch_owners(owners).tolist() == [[0, 2, -1, 0]]
    assert len(SHAPES) == len(COLOURS) == 8
