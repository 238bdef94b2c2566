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

from clip_shapes_batches import OUTLINE, Batches, Stage, attributes, outlines, patch_owners, prompts  # noqa: E402
from clip_shapes_losses import (  # noqa: E402
    BACKGROUND,
    CLAIMS,
    TYPICAL_SIDE,
    Helper,
    claims,
    groups,
    losses,
    outline_loss,
    read,
    see,
)
from train_clip_shapes import look_nearby  # noqa: E402

from fna.data.scene_drawing import draw  # noqa: E402
from fna.data.scenes import COLOURS, SHAPES, make_scene  # noqa: E402

STAGES = (
    Stage(sizes=(64,), batch=4, single=2, swaps=0, rate=1e-3, steps=3),
    Stage(sizes=(128, 96), batch=3, single=1, swaps=2, rate=1e-3, steps=3),
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
        assert torch.allclose(see(model.visual, pixels).image, model.encode_image(pixels, normalize=True), atol=1e-5)
        assert torch.allclose(read(model, ids), model.encode_text(padded, normalize=True), atol=1e-5)


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
    helper = Helper(model.visual.output_dim, 128)
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


def test_the_middle_is_the_stream_that_the_second_half_continues(model: open_clip.CLIP) -> None:
    pixels = torch.randn(1, 3, 256, 256)
    kept: list[torch.Tensor] = []
    handle = model.visual.transformer.resblocks[4].register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        model.encode_image(pixels)
        assert torch.allclose(see(model.visual, pixels).middle, kept[0][:, 1:], atol=1e-4)
    handle.remove()


def test_at_the_start_a_patch_attends_to_what_is_near() -> None:
    torch.manual_seed(0)
    visual = open_clip.create_model(f"local-dir:{HOME}", load_weights=False).visual
    look_nearby(visual)
    grey = torch.zeros(1, 3, 256, 256)
    with torch.no_grad():
        x = visual.transformer.resblocks[0].ln_1(visual._embeds(grey))
        q, k, _ = torch.nn.functional.linear(x, visual.transformer.resblocks[0].attn.in_proj_weight).chunk(3, -1)
        scores = (q @ k.mT)[0, 1:, 1:].unflatten(-1, (32, 32))
    middle = scores[16 * 32 + 16]
    assert middle.argmax() == 16 * 32 + 16
    assert middle[15:18, 15:18].mean() > middle[12:21, 12:21].mean() > middle.mean()


def test_outlines_tell_shapes_and_boxes() -> None:
    scene = make_scene(5)
    boxes, silhouettes = outlines(scene)
    owners = draw(make_scene(5, 1, 1), 256)[1]
    (box,), (mask,) = (part[:1] for part in outlines(make_scene(5, 1, 1)))
    rows, columns = np.nonzero(owners)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 256
    assert np.abs(box - seen).max() < 2 / 256
    assert abs(mask.mean() - (owners > 0).mean() / np.prod(seen[2:] - seen[:2])) < 0.05
    there = len(scene.things)
    assert boxes[:there].any(1).all()
    assert silhouettes[:there].any((1, 2)).all()
    assert not boxes[there:].any()
    assert not silhouettes[there:].any()


def test_outline_loss_is_zero_where_sides_and_silhouette_are_told() -> None:
    helper = Helper(8, 6)
    owners = torch.tensor([[0, 1, -1, 2]])
    boxes, silhouettes = torch.rand(1, 2, 4), torch.randint(0, 2, (1, 2, OUTLINE, OUTLINE)).float()
    centres = {1: torch.tensor([0.75, 0.25]), 3: torch.tensor([0.75, 0.75])}
    rows = []
    for patch, thing in ((1, 0), (3, 1)):
        box, centre = boxes[0, thing], centres[patch]
        away = torch.cat([centre - box[:2], box[2:] - centre]) / TYPICAL_SIDE
        rows.append(torch.cat([away, 100 * (2 * silhouettes[0, thing].flatten() - 1)]))
    told = iter([torch.stack(rows)])
    helper.outline = torch.nn.Module()
    helper.outline.forward = lambda patches: next(told)  # type: ignore[method-assign]
    assert outline_loss(helper, torch.zeros(1, 4, 6), owners, boxes, silhouettes) < 1e-5


def test_owners_of_patches() -> None:
    owners = np.zeros((1, 16, 16), np.uint8)
    owners[0, :8, 8:] = 2
    owners[0, 8:, :2] = 1  # a quarter of the patch: undecided
    assert patch_owners(owners).tolist() == [[0, 2, -1, 0]]
    assert len(SHAPES) == len(COLOURS) == 8
