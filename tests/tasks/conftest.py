"""A model whose answers can be worked out by hand: it sees the mean colour of an image and reads colour names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fna.data.base import Captioned, Dataset, Labelled
from fna.models.base import Model, Weights
from fna.ops.contract import Tokens

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.resize((2, 2))).copy()).permute(2, 0, 1).float() / 255


def colours_in(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3))


def colours_named(sentences: Sequence[str]) -> Tensor:
    return torch.stack([torch.tensor([float(name in sentence) for name in COLOURS]) + 1e-3 for sentence in sentences])


@pytest.fixture
def eye() -> Model:
    """Head rows red, green, blue; the same three axes for images and sentences."""
    return Model(
        name="eye",
        tower=nn.Identity(),
        weights=Weights("made", "0" * 64, "none"),
        transform=to_tensor,
        image_size=(2, 2),
        tokens=Tokens(prefix=0, grid=(1, 1)),
        depth=0,
        device=torch.device("cpu"),
        dtype=torch.float32,
        classify=colours_in,
        encode_image=colours_in,
        encode_text=colours_named,
    )


@pytest.fixture
def clip(eye: Model) -> Model:
    """The same without a head."""
    return replace(eye, classify=None)


@pytest.fixture
def labelled(tmp_path: Path) -> Dataset[Labelled]:
    """Labels in the order blue, green, red: a blue, a green and a red image, and a blue one that is called red."""
    names = ("blue", "green", "red")
    colours = ("blue", "green", "red", "blue")
    for number, colour in enumerate(colours):
        Image.new("RGB", (4, 4), COLOURS[colour]).save(tmp_path / f"{number}.png")
    examples = [Labelled(f"s{number}", tmp_path / f"{number}.png", label) for number, label in enumerate((0, 1, 2, 2))]
    return Dataset("colours", "val", "generated", "d", examples, names, names)


@pytest.fixture
def captioned(tmp_path: Path) -> Dataset[Captioned]:
    """A red image with two captions, one of them wrong, a green and a blue one with one each."""
    captions = {"red": ("red", "green thing"), "green": ("so green",), "blue": ("blue",)}
    for colour in captions:
        Image.new("RGB", (4, 4), COLOURS[colour]).save(tmp_path / f"{colour}.png")
    examples = [Captioned(colour, tmp_path / f"{colour}.png", texts) for colour, texts in captions.items()]
    return Dataset("captions", "val", "generated", "d", examples)
