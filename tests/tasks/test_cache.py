"""What is kept on disk: found again, gone on with, and never taken for another's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fna.data.base import Dataset, Labelled
from fna.masking.strategy import Masking
from fna.models.base import Model
from fna.tasks import calibration
from fna.tasks.base import Run
from fna.tasks.cache import cached_rows
from fna.tasks.dense import Inference
from fna.tasks.source import Source
from fna.tasks.texts import class_texts


def ones(done: int) -> Iterator[np.ndarray]:
    yield np.ones((2 - done, 3))


def test_a_removed_file_is_made_anew_even_when_that_is_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    cached_rows(file, (2, 3), ones)
    file.unlink()

    def interrupted(done: int) -> Iterator[np.ndarray]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        cached_rows(file, (2, 3), interrupted)
    assert cached_rows(file, (2, 3), ones).tolist() == [[1.0] * 3] * 2


def test_class_texts_of_a_model_that_is_run_otherwise_are_others(clip: Model, tmp_path: Path) -> None:
    for model in (clip, replace(clip, config={"quick_gelu": True}), clip):
        class_texts(model, ["red"], "simple", tmp_path)
    assert len(list((tmp_path / "texts").glob("*.npy"))) == 2


def test_features_and_masks_too(clip: Model, labelled: Dataset[Labelled]) -> None:
    def keys(model: Model) -> list[Any]:
        data: Any = SimpleNamespace(digest="d")
        source = Source(model, data, None, Inference(), Run(1), Path())
        return [source.decides(1), calibration._key(Masking(), model, labelled)]

    other = replace(clip, config={"norm_eps": 0.1})
    assert keys(clip) == keys(replace(clip))
    assert all(one != two for one, two in zip(keys(clip), keys(other), strict=True))
