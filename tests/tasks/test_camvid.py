"""Real segmentation: a linear head on a real ViT against what colour and place alone tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fna.configs import instantiate, load_option
from fna.data.loading import open_image
from fna.data.segmentation import LabelMaps, SegmentedDataset
from fna.metrics.iou import areas, confusion, segmentation_scores
from fna.tasks.base import Run
from fna.tasks.dense import Inference
from fna.tasks.heads import LinearHead
from fna.tasks.segmentation import Segmentation

COLOURS, ROWS, COLUMNS = 8, 24, 4
PRIOR = 5.0  # pixels of the overall distribution mixed into every cell


@pytest.fixture(scope="module")
def camvid(shared_data: Path) -> SegmentedDataset:
    node = load_option("dataset", "camvid")
    node.pop("defaults", None)
    source = instantiate(node)
    assert isinstance(source, LabelMaps)
    return LabelMaps(**{**vars(source), "root": str(shared_data / "camvid")}).load(None)


def cells(path: Path) -> np.ndarray:
    """Which colour, row and column each pixel falls into."""
    pixels = np.asarray(open_image(path)).astype(np.int64)
    height, width, _ = pixels.shape
    red, green, blue = np.moveaxis(pixels * COLOURS // 256, -1, 0)
    row, column = np.arange(height)[:, None] * ROWS // height, np.arange(width)[None] * COLUMNS // width
    return (((red * COLOURS + green) * COLOURS + blue) * ROWS + row) * COLUMNS + column


def baseline(camvid: SegmentedDataset) -> float:
    """mIoU of the most frequent class of each colour and place in the train images."""
    assert camvid.training is not None
    train, classes = camvid.training(), len(camvid.classes)
    counts = np.zeros((COLOURS**3 * ROWS * COLUMNS, classes))
    for example in train.examples:
        labels = train.read_labels(example)
        np.add.at(counts, (cells(example.image)[labels != 255], labels[labels != 255]), 1)
    likely = (counts + PRIOR * counts.sum(0) / counts.sum()).argmax(1)
    table = sum(confusion(likely[cells(example.image)], camvid.read_labels(example), classes) for example in camvid.examples)
    return float(segmentation_scores(areas(np.asarray(table)))["miou"])


def test_the_data_set_is_read_whole(camvid: SegmentedDataset) -> None:
    assert camvid.training is not None
    assert (len(camvid.examples), len(camvid.training().examples), len(camvid.classes)) == (30, 60, 11)
    assert set(np.unique(camvid.read_labels(camvid.examples[0]))) <= {*range(11), 255}


@pytest.mark.slow
def test_a_linear_head_sees_more_than_colour_and_place(camvid: SegmentedDataset, shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "vit_tiny_tinyimagenet"
    node = load_option("model", "vit_tiny_tinyimagenet")
    node.checkpoint, node.classes = str(weights / "model.safetensors"), str(weights / "classes.tsv")
    model = instantiate(node).build(image_size=(352, 480), device="cpu", dtype="float32", seed=0)
    assert model.token_count == 661
    task = Segmentation(LinearHead(), Inference(), cache=str(tmp_path))
    outcome = task.evaluate(model, camvid, Run(batch_size=10))
    scores = task.metrics({name: counts.sum(0) for name, counts in outcome.counts.items()})
    low = baseline(camvid)
    assert 20 < low < 30
    assert float(scores["miou"]) == pytest.approx(40.8, abs=0.5)
    assert float(scores["miou"]) > low + 10
