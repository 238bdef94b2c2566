"""ImageNet and its relatives on trees in the published layouts: labels are those of the 1,000 in order, whatever a listing says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fna.data.files import read_classes
from fna.data.imagenet import FLAT, LIST, SUBSETS, ImageNet
from fna.errors import UserError

IDS, NAMES = read_classes(LIST)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "JPEG")


def labels(root: Path, **changes: Any) -> dict[str, int]:
    data = ImageNet(str(root), **changes).load(None)
    return {example.key: example.label for example in data.examples}


def test_the_list_is_timms_order_and_open_clips_names() -> None:
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    assert ImageNetInfo("imagenet-1k").label_names() == IDS
    assert sorted(IDS) == IDS
    assert list(IMAGENET_CLASSNAMES) == NAMES


def test_the_subsets_are_timms() -> None:
    from importlib.resources import files

    for name, total in SUBSETS.items():
        indices = [int(line) for line in (files("timm.data") / f"_info/{name}_indices.txt").read_text().split()]
        assert len(indices) == 200
        assert sum(indices) == total


def test_synset_folders(tmp_path: Path) -> None:
    for wnid in (IDS[999], IDS[0], IDS[10]):
        picture(tmp_path / "val" / wnid / f"ILSVRC2012_val_{wnid}.JPEG")
    data = ImageNet(str(tmp_path), train="train").load(None)
    assert [example.label for example in data.examples] == [0, 10, 999]
    assert len(data.classes) == 1000
    assert data.classes[0] == "tench"
    assert "997 of ImageNet's 1,000 classes" in data.notes[0]
    picture(tmp_path / "train" / IDS[3] / "n_1.JPEG")
    assert data.training is not None
    assert [example.label for example in data.training().examples] == [3]


def test_the_devkits_own_numbering_is_translated(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    shuffled = np.random.default_rng(0).permutation(1000)  # the kit's numbers follow no order of ids
    kind = np.dtype([("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    synsets = np.array([(number + 1, IDS[place], 0) for number, place in enumerate(shuffled)] + [(1001, "n00001740", 9)], kind)
    kit = tmp_path / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    savemat(kit / "meta.mat", {"synsets": synsets})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n1\n1000\n")
    for number in (1, 2, 3):
        picture(tmp_path / "val" / FLAT.format(number))
    found = labels(tmp_path)
    assert list(found.values()) == [int(shuffled[489]), int(shuffled[0]), int(shuffled[999])]
    assert next(iter(found)) == "ILSVRC2012_val_00000001.JPEG"


def test_kaggles_labels(tmp_path: Path) -> None:
    picture(tmp_path / FLAT.format(1))
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\nILSVRC2012_val_00000001,{IDS[65]} 1 2 3 4 \n")
    assert list(labels(tmp_path).values()) == [65]
    with (tmp_path / "LOC_val_solution.csv").open("a") as file:
        file.write(f"ILSVRC2012_val_00000001,{IDS[66]} 1 2 3 4 \n")
    with pytest.raises(UserError, match="line 3: ILSVRC2012_val_00000001 has another class above; give each image one"):
        labels(tmp_path)


def test_flat_images_without_labels_say_what_they_need(tmp_path: Path) -> None:
    picture(tmp_path / FLAT.format(1))
    with pytest.raises(UserError, match=r"need ILSVRC2012_validation_ground_truth\.txt with meta\.mat"):
        labels(tmp_path)


def test_v2_folders_are_numbers(tmp_path: Path) -> None:
    for number in (0, 1, 2, 10, 100, 999):
        picture(tmp_path / str(number) / "a.jpeg")
    assert labels(tmp_path, name="imagenet_v2") == {f"{number}/a.jpeg": number for number in (0, 1, 2, 10, 100, 999)}


@pytest.mark.parametrize("name", sorted(SUBSETS))
def test_subsets_keep_their_200_classes(tmp_path: Path, name: str) -> None:
    from importlib.resources import files

    indices = [int(line) for line in (files("timm.data") / f"_info/{name}_indices.txt").read_text().split()]
    for place in indices:
        picture(tmp_path / IDS[place] / "a.jpg")
    data = ImageNet(str(tmp_path), name=name).load(None)
    assert [example.label for example in data.examples] == list(range(200))
    assert list(data.class_ids) == [IDS[place] for place in indices]
    picture(tmp_path / IDS[next(place for place in range(1000) if place not in indices)] / "a.jpg")
    with pytest.raises(UserError, match="its 201 classes are not the 200"):
        ImageNet(str(tmp_path), name=name).load(None)


def test_another_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(UserError, match=r"dataset\.split=val: no such folder in .*; there is trainannot \(it looks like camvid\)"):
        labels(tmp_path)
    with pytest.raises(UserError, match=r"scripts/prepare\.py imagenet_a"):
        labels(tmp_path / "nowhere", name="imagenet_a")


def test_a_set_with_one_split_is_learnt_from_by_a_bank(tmp_path: Path) -> None:
    for name in ("n01440764", "n01443537"):
        for number in range(3):
            picture(tmp_path / "val" / name / f"{number}.jpg")
    data = ImageNet(str(tmp_path), bank=2).load(None)
    assert data.training is not None
    assert [example.key for example in data.examples] == ["n01440764/2.jpg", "n01443537/2.jpg"]
    assert [example.label for example in data.training().examples] == [0, 0, 1, 1]
    without = ImageNet(str(tmp_path), train="train").load(None)
    assert without.training is not None
    with pytest.raises(UserError, match=r"dataset\.train=train: no such folder in .*; there is val.*dataset\.bank=4 alone"):
        without.training()


def test_labels_of_the_flat_layout_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    picture(tmp_path / FLAT.format(1))
    file = tmp_path / "LOC_val_solution.csv"
    for data, words in (
        (b"Image,Prediction\nILSVRC2012_val_00000001,n01440764\n", "line 2: no ImageId and PredictionString"),
        (b"ImageId,PredictionString\nILSVRC2012_val_00000001\n", "line 2: no ImageId and PredictionString"),
        (b"ImageId,PredictionString\nILSVRC2012_val_00000001,caf\xe9 1\n", "not a CSV"),
        (b"ImageId,PredictionString\nILSVRC2012_val_00000001,n99999999 1\n", "n99999999 is none of ImageNet's"),
    ):
        file.write_bytes(data)
        with pytest.raises(UserError, match=words):
            labels(tmp_path)
    file.unlink()
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("one\n")
    (tmp_path / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file, damaged" * 9)
    with pytest.raises(UserError, match=r"meta\.mat: cannot be read"):
        labels(tmp_path)
