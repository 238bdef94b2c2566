"""How like full attention's the answers are, on images of which nothing is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fna.data.base import Dataset, Pictured
from fna.data.images import Images
from fna.errors import UserError
from fna.metrics.compare import compare
from fna.models.base import Model
from fna.tasks.base import Run
from fna.tasks.fidelity import Fidelity, PatchFidelity


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset[Pictured]:
    """Two reddish pictures and two bluish ones, in no order of their own."""
    colours = {"a": (250, 20, 0), "b": (0, 20, 250), "c": (250, 40, 0), "d": (0, 60, 250)}
    for name, colour in colours.items():
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
    return Images(str(tmp_path)).load(None)


def test_a_model_with_a_head_decides_by_its_classes(eye: Model, pictures: Dataset[Pictured]) -> None:
    outcome = Fidelity().evaluate(replace(eye, classes=["red", "green", "blue"]), pictures, Run(batch_size=3))
    assert outcome.labels == ["red", "blue", "red", "blue"]
    assert outcome.decisions.tolist() == [0, 2, 0, 2]
    assert outcome.outputs == pytest.approx(np.array([[250, 20, 0], [0, 20, 250], [250, 40, 0], [0, 60, 250]]) / 255)
    assert Fidelity().evaluate(eye, pictures, Run(batch_size=3)).labels == ["0", "2", "0", "2"]


def test_a_model_without_a_head_decides_by_the_nearest_other_image(clip: Model, pictures: Dataset[Pictured]) -> None:
    outcome = Fidelity().evaluate(clip, pictures, Run(batch_size=3))
    assert outcome.labels == ["c.png", "d.png", "a.png", "b.png"]
    assert np.linalg.norm(outcome.outputs, axis=1) == pytest.approx(1)


def test_agreement_is_all_there_is_and_the_order_of_samples_does_not_matter(clip: Model, pictures: Dataset[Pictured]) -> None:
    """A decision is a place among the sorted keys: an index into a pass's own order would differ between these two."""
    task, turned = Fidelity(), replace(pictures, examples=pictures.examples[::-1])
    full, variant = (task.evaluate(clip, data, Run(batch_size=3)) for data in (pictures, turned))
    assert full.decisions.tolist() != variant.decisions.tolist()
    found = compare(full, variant, task.metrics, draws=20)
    assert found.metrics == {}
    assert found.fidelity["agreement"] == 100
    assert found.fidelity["output_error"] == pytest.approx(0, abs=1e-6)


def test_another_nearest_image_is_a_disagreement(clip: Model, pictures: Dataset[Pictured]) -> None:
    def green(images: Any) -> Any:
        return images.mean(dim=(2, 3))[:, [1]]  # one direction: all are equally near

    task = Fidelity()
    outcomes = [task.evaluate(model, pictures, Run(batch_size=3)) for model in (clip, replace(clip, encode_image=green))]
    assert compare(*outcomes, task.metrics, draws=20).fidelity["agreement"] < 100


def test_data_with_labels_or_captions_serves_as_well(
    clip: Model, eye: Model, labelled: Dataset[Any], captioned: Dataset[Any]
) -> None:
    for model in (clip, eye):
        for data in (labelled, captioned):
            Fidelity().check(model, data)
            assert len(Fidelity().evaluate(model, data, Run(batch_size=2)).keys) == len(data.examples)


def test_what_cannot_be_compared_is_refused(clip: Model, eye: Model, pictures: Dataset[Pictured]) -> None:
    one = replace(pictures, examples=pictures.examples[:1])
    Fidelity().check(eye, one)
    with pytest.raises(UserError, match="images holds one image, and eye without a head is asked which others are near"):
        Fidelity().check(clip, one)
    with pytest.raises(UserError, match="neither a classification head nor an image embedding"):
        Fidelity().check(replace(clip, encode_image=None), pictures)


def test_patches_are_compared_one_by_one(eye: Model, pictures: Dataset[Pictured]) -> None:
    """Two columns, two rows: with full attention each patch is most like the one below or above; stirred, like that beside it."""

    def columns(images: Any) -> Any:
        return images.new_tensor([[1, 0], [0, 1], [1, 0.1], [0.1, 1]]).expand(len(images), -1, -1)

    grid = replace(eye.tokens, prefix=0, grid=(2, 2))
    upright, lying = (
        replace(eye, tokens=grid, patches=columns),
        replace(eye, tokens=grid, patches=lambda x: columns(x)[:, [0, 2, 1, 3]]),
    )
    task = PatchFidelity()
    full, same, other = (task.evaluate(model, pictures, Run(batch_size=3)) for model in (upright, upright, lying))
    assert full.decisions.tolist() == [[2, 3, 0, 1]] * 4
    assert compare(full, same, task.metrics, draws=20).fidelity["agreement"] == 100
    stirred = compare(full, other, task.metrics, draws=20).fidelity
    assert stirred["agreement"] == 0
    assert stirred["output_error"] > 0.5


def test_a_model_without_patches_is_refused(eye: Model, pictures: Dataset[Pictured]) -> None:
    with pytest.raises(UserError, match="gives no patch tokens"):
        PatchFidelity().check(replace(eye, patches=None), pictures)
