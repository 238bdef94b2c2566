"""What other libraries do unasked (findings/), where fna must not follow: class orders, label maps and padding of batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets

from fna.data.imagefolder import ImageFolder
from fna.data.segmentation import LabelMaps
from fna.models.base import Model
from fna.models.heads import listed
from fna.models.timm import TimmModel
from fna.tasks.base import Run
from fna.tasks.classification import Classification
from fna.tasks.dense import Inference
from fna.tasks.heads import LinearHead
from fna.tasks.segmentation import Segmentation
from tests.tasks.conftest import COLOURS, eye  # noqa: F401  (a fixture)

FOLDERS = {
    "1 2 10": "class 1 is '10' here, as torchvision sorts folders, and '2' where timm's train.py trained",  # Oxford's flowers
    "accordion ant Motorbikes": "class 0 is 'Motorbikes' here, as torchvision sorts folders, and 'accordion' where",  # Caltech-101
    "class_2 class_10 class_11": "class 0 is 'class_10' here, as torchvision sorts folders, and 'class_2' where",
}


def coloured(root: Path, names: str) -> ImageFolder:
    """A folder for each name with images of one colour: red, green and blue in the order of ``names``."""
    for name, colour in zip(names.split(), COLOURS.values(), strict=True):
        (root / "val" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), colour).save(root / "val" / name / "0.png")
    return ImageFolder(str(root), "val")


@pytest.mark.parametrize("names", FOLDERS)
def test_class_folders_that_timm_numbers_otherwise_are_told_with_what_puts_it_right(
    names: str,
    eye: Model,  # noqa: F811
    tmp_path: Path,
) -> None:
    """timm 1.0.31 sorts class folders by `natural_key` (timm/data/readers/reader_image_folder.py), torchvision and fna as texts.

    A head of timm's train.py then has its rows in another order, and top-1 is of shuffled classes. The list that the note asks
    for puts it right.
    """
    data = coloured(tmp_path, names).load(None)
    timms = find_images_and_targets(str(tmp_path / "val"))[1]
    assert [*timms] == names.split() != data.classes
    outcome = Classification().evaluate(eye, data, Run(batch_size=3))
    assert outcome.counts["top1"].sum() < 3
    (note,) = (note for note in data.notes if "class order not checked" in note)
    assert FOLDERS[names] in note
    assert "give model.classes=TSV, the folders' names in that order" in note
    (tmp_path / "timms.tsv").write_text("\n".join(timms), encoding="utf-8")
    eye.class_ids, eye.classes = listed(str(tmp_path / "timms.tsv"), 3)
    assert Classification().evaluate(eye, data, Run(batch_size=3)).counts["top1"].sum() == 3


def test_class_folders_that_both_number_alike_are_told_no_more_than_before(eye: Model, tmp_path: Path) -> None:  # noqa: F811
    data = coloured(tmp_path, "n01440764 n01443537 n01484850").load(None)
    Classification().check(eye, data)
    assert data.notes[-1].endswith("(model.classes=TSV would tell)")


@pytest.fixture(scope="module")
def vit() -> Model:
    source = TimmModel("vit_tiny_patch16_224", random=True, num_classes=0)
    return source.build(image_size=64, device="cpu", dtype="float32", seed=0)


@pytest.fixture
def scenes(tmp_path: Path) -> LabelMaps:
    """Boxes of the classes 1 and 3 on class 0, wide and tall pictures in turns; class 2, which lies between, is nowhere."""
    generator = np.random.default_rng(0)
    for split, number, size in (("train", 0, (64, 96)), ("val", 0, (64, 96)), ("val", 1, (96, 64)), ("val", 2, (64, 96))):
        labels = np.zeros(size, np.uint8)
        labels[10:40, 5:30], labels[45:60, 20:50] = 1, 3
        pixels = generator.integers(0, 40, (*size, 3), dtype=np.uint8) + 70 * labels[..., None]
        for folder, image in ((split, pixels), (f"{split}annot", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
    places = ("{split}/{name}.png", "{split}annot/{name}.png")
    return LabelMaps("scenes", str(tmp_path), "val", *places, ["ground", "one", "two", "three"], (), train="train")


def counted(vit: Model, scenes: LabelMaps, folder: Path, batch: int, **view: Any) -> dict[str, Any]:
    made = Segmentation(LinearHead(steps=20, batch=4), Inference(**view), cache=str(folder / "cache"))
    made.prepare(vit, data := scenes.load(None), Run(batch_size=1))
    return dict(made.evaluate(vit, data, Run(batch_size=batch)).counts)


@pytest.mark.parametrize("view", [{}, {"short_side": 80}, {"mode": "slide"}])
def test_a_picture_is_segmented_alike_whatever_others_are_in_its_batch(
    view: Any, vit: Model, scenes: LabelMaps, tmp_path: Path
) -> None:
    """transformers 5.23.0 pads a batch to its largest picture and squeezes the padded masks into each of them.

    So does `post_process_semantic_segmentation` of Mask2Former (findings/transformers_squeezes_padded_masks.sh).
    """
    alone, together = (counted(vit, scenes, tmp_path, batch, **view) for batch in (1, 3))
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, atol=2)  # pixels on a boundary: products round by batch


def test_a_label_map_is_compared_at_its_own_size_and_has_the_classes_that_it_has(
    vit: Model, scenes: LabelMaps, tmp_path: Path
) -> None:
    """transformers 5.23.0 resizes label maps for BEiT, DPT and Sapiens2 as it does pictures: between 1 and 3 would lie 2."""
    truths = counted(vit, scenes, tmp_path, 2)["labelled"]
    for number, seen in enumerate(truths):
        labels = np.asarray(Image.open(tmp_path / f"valannot/{number}.png"))
        assert seen.tolist() == np.bincount(labels.ravel(), minlength=4).tolist()
    assert truths[:, 2].sum() == 0


@pytest.mark.parametrize("name", ["train", "bullet_train", "test_tube"])
def test_images_of_a_class_called_train_stay_in_their_split(name: str, tmp_path: Path) -> None:
    """datasets 5.2.0 (imagefolder) puts val/bullet_train into the training split: each image is then its own neighbour."""
    for split in ("train", "val"):
        for place, folder in enumerate(("bus", name)):
            for number in range(2):
                path = tmp_path / split / folder / f"{split}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (place, number, len(split))).save(path)
    data = ImageFolder(str(tmp_path), "val", train="train").load(None)
    for split, part in (("val", data), ("train", data.training())):
        folders = [(example.image.parent.parent.name, example.image.parent.name) for example in part.examples]
        assert sorted(folders) == sorted([(split, "bus")] * 2 + [(split, name)] * 2)
