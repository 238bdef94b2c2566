"""Batches of freshly drawn scenes for training clip_shapes: a function of the step alone, so a run can be resumed.

Words are turned into tokens here too, in the loader's processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import open_clip
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

from fna.data.scene_captions import LEVELS as CAPTION_LEVELS
from fna.data.scene_captions import captions, swapped_captions
from fna.data.scene_drawing import draw
from fna.data.scenes import COLOURS, SHAPES, SIZES, TEXTURES, Scene, Thing, box_of, make_scene
from fna.data.shapes import SEEDS

PATCH = 8
MOST = 5  # things a scene
OUTLINE = 12  # a silhouette is drawn on OUTLINE x OUTLINE cells
LEVELS = (4, 4, 4, 4, 4, 4, 3, 1)  # a caption's level is drawn from these: mostly full
TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}", "a picture of a {}", "there is a {}")


@dataclass(frozen=True)
class Stage:
    """Images of one of `sizes` pixels, `batch` scenes a step with `swaps` false captions each, and `single` with one thing.

    `whole`: how heavy the losses of whole images are.
    """

    sizes: tuple[int, ...]
    batch: int
    single: int
    swaps: int
    rate: float
    steps: int
    whole: float = 1.0
    ends: tuple[str, ...] = ("",)  # of prompts

    @property
    def scenes(self) -> int:
        return self.batch + self.single


class Words:
    """Captions to token ids `[len(texts), longest]`, by the model's own tokenizer, one look-up a word."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=f"{folder}/merges.txt.gz")
        self.known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        rows = [[self.tokenizer.sot_token_id, *self._ids(text), self.tokenizer.eot_token_id] for text in texts]
        table = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for row, ids in zip(table, rows, strict=True):
            row[: len(ids)] = ids
        return table

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in text.replace(",", " ,").split():
            if word not in self.known:
                self.known[word] = self.tokenizer.encode(word)
            ids += self.known[word]
        return ids


def prompts(template: str) -> list[str]:
    """Texts of the classes: 64 coloured shapes, 8 shapes, background, 8 colours, 3 sizes, 4 textures."""
    named = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES] + [*SHAPES, "background"]
    named += [f"{word} shape" for word in (*COLOURS, *SIZES, *TEXTURES)]
    return [template.format(name).replace("a orange", "an orange") for name in named]


def attributes(scene: Scene) -> NDArray[np.int64]:
    """`[MOST, 5]`: indices of shape, colour, size, texture and place; -1 where there is no such thing."""
    rows = np.full((MOST, 5), -1)
    for row, thing in zip(rows, scene.things, strict=False):
        row[:] = (
            SHAPES.index(thing.shape),
            COLOURS.index(thing.colour),
            SIZES.index(thing.size),
            TEXTURES.index(thing.texture),
            3 * thing.cell[0] + thing.cell[1],
        )
    return rows


def silhouette(thing: Thing) -> NDArray[np.float32]:
    """The thing's mask within its own box, nothing before it: `[OUTLINE, OUTLINE]` shares in 0 to 1."""
    left, top, right, bottom = box_of(thing.outline)
    fine = 4 * OUTLINE
    mask = Image.new("L", (fine, fine), 0)
    points = [((x - left) / (right - left) * fine, (y - top) / (bottom - top) * fine) for x, y in thing.outline]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    return np.asarray(mask.reduce(4), np.float32) / np.float32(255)


def outlines(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes `[MOST, 4]` (left, top, right, bottom, unit coordinates) and silhouettes `[MOST, OUTLINE, OUTLINE]`, 0 for none."""
    boxes, masks = np.zeros((MOST, 4), np.float32), np.zeros((MOST, OUTLINE, OUTLINE), np.float32)
    for i, thing in enumerate(scene.things):
        boxes[i], masks[i] = box_of(thing.outline), silhouette(thing)
    return boxes, masks


def patch_owners(owners: NDArray[np.uint8]) -> NDArray[np.int64]:
    """`[B, S, S]` pixel owners to `[B, patches]`: thing i as i + 1 where it has 40 % of the patch, 0 where things have
    below 10 %, else -1 (undecided)."""
    count, size, _ = owners.shape
    grid = size // PATCH
    cells = owners.reshape(count, grid, PATCH, grid, PATCH).transpose(0, 1, 3, 2, 4).reshape(count, grid * grid, -1)
    shares = np.stack([(cells == i).mean(-1) for i in range(1, MOST + 1)], -1)
    best = shares.argmax(-1)
    label = np.where(shares.max(-1) >= 0.4, best + 1, -1)
    return np.where(shares.sum(-1) < 0.1, 0, label)


class Batches(Dataset[dict[str, Any]]):
    """Item `step` is that step's whole batch; the last `single` scenes of it hold one thing and have no caption."""

    def __init__(self, stages: Sequence[Stage], folder: str) -> None:
        self.stages, self.words = stages, Words(folder)

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def __getitem__(self, step: int) -> dict[str, Any]:
        seed, before = SEEDS["train"].start, step
        for stage in self.stages:
            if before < stage.steps:
                break
            before -= stage.steps
            seed += stage.steps * stage.scenes
        seed += before * stage.scenes
        random = Random(step)
        size = random.choice(stage.sizes)
        scenes = [make_scene(seed + i) for i in range(stage.batch)]
        singles = [make_scene(seed + stage.batch + i, 1, 1) for i in range(stage.single)]
        drawn = [draw(scene, size) for scene in scenes + singles]
        boxes, masks = zip(*(outlines(scene) for scene in scenes + singles), strict=True)
        levels = [random.choice(LEVELS) for _ in scenes]
        texts = [captions(scene)[level] for scene, level in zip(scenes, levels, strict=True)]
        wrong = [text for scene in scenes for text in swapped_captions(scene, stage.swaps, step)] if stage.swaps else []
        return {
            "pixels": np.stack([pixels for pixels, _ in drawn]),
            "owners": patch_owners(np.stack([owners for _, owners in drawn])),
            "attributes": np.stack([attributes(scene) for scene in scenes + singles]),
            "boxes": np.stack(boxes),
            "silhouettes": np.stack(masks),
            "texts": self.words(texts + wrong),
            "prompts": self.words(prompts(random.choice(TEMPLATES) + random.choice(stage.ends))),
            "is_full": np.array(levels) == len(CAPTION_LEVELS) - 1,
            "batch": stage.batch,
        }
