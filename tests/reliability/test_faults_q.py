"""Cases of a twelfth pair of eyes, what of them failed: classes whose names are no words, masks beyond their pictures, one picture
in two classes, the folder that a trainer saved into."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
from PIL import Image

from fna.data.base import Labelled
from fna.data.coco_masks import CocoInstances
from fna.data.imagefolder import ImageFolder
from fna.errors import UserError
from fna.metrics.words import has_word
from fna.models.checkpoint_paths import weights_file
from fna.models.hf_files import read_json
from fna.tasks import maskclip
from fna.tasks.classification import Classification
from fna.tasks.maskclip import MaskClip
from fna.tasks.texts import short_names

CLIP: Any = SimpleNamespace(name="clip", classify=None, encode_image=1, encode_text=1, cut_texts=None, spelt_texts=None, tower=None)


def noted(classes: Sequence[str], **options: Any) -> list[str]:
    """What a zero-shot run on these classes notes. Raises as it would."""
    dataset: Any = SimpleNamespace(name="d", classes=classes, examples=[Labelled("x", Path("x"), 0)], notes=[])
    Classification(**options).check(CLIP, dataset)
    return dataset.notes


def pictures(root: Path, *names: str) -> Path:
    """A picture of its own in each of the folders."""
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (place % 256, place // 256, 9)).save(root / name / "a.png")
    return root


# A 1 and 4: names that are no words


@pytest.mark.parametrize(
    "classes",
    [
        ["0", "1", "2"],
        ["001", "002"],
        ["1.0", "-", "___"],
        ["class_0", "Class-1", "CLASS2"],
        ["c0", "c1"],
        ["label 5", "label 6"],
        ["A", "B", "C"],
        ["0.jpg", "1.jpg"],
        ["3f2504e0-4f89-11d3-9a0c-0305e82c3301", "d41d8cd98f00b204"],
        ["n01443537", "7"],
        ["④", "⑤"],
        ["0", "1", "2", "background"],
        ["0", "unknown"],
        ["0", "1", "2", "cat"],
    ],
    ids=" ".join,
)
def test_classes_called_by_number_letter_or_id_are_refused_by_who_reads_names(classes: list[str]) -> None:
    """A text tower that is asked for "a photo of a 0." gives chance."""
    with pytest.raises(
        UserError, match=r"d knows its classes by number, letter or id only \(.*\).*: give their names with dataset\.c"
    ):
        noted(classes)


@pytest.mark.parametrize(
    "classes",
    [
        ["cat", "dog"],
        ["no", "yes"],
        ["猫", "犬"],
        ["label", "type"],
        ["number 0", "letter B"],
        ["facade", "ox"],
        ["background", "cat"],
    ],
    ids=" ".join,
)
def test_classes_called_by_words_are_not_doubted(classes: list[str]) -> None:
    assert noted(classes) == []


def test_a_sentence_of_ones_own_may_say_what_the_numbers_are() -> None:
    (note,) = noted([*"0123456789"], templates=['a photo of the number: "{}".'])  # CLIP's own for MNIST
    assert "10 of 10 class names hold no word (first: 0)" in note


def test_a_few_names_without_a_word_are_noted_with_the_first() -> None:
    (note,) = noted(["Cessna", "707-320", "Boeing", "Fokker"])
    assert note.startswith("1 of 4 class names hold no word (first: 707-320)")
    assert "dataset.classes=TSV" in note


def test_classes_that_differ_in_numbers_only_are_noted() -> None:
    (note,) = noted(["Patient 1", "patient 2"])
    assert note.startswith("class names differ in numbers only (Patient 1, patient 2)")
    assert noted(["patient 1", "nurse 2", "doctor 7"]) == []


def test_names_that_hold_signs_as_html_writes_them_are_noted() -> None:
    """open_clip 3's tokenizer undoes them (as ftfy and `html.unescape` do), transformers 5's does not."""
    assert (tokens := open_clip.get_tokenizer("ViT-B-32")(["Tom &amp; Jerry", "Tom & Jerry"]))[0].equal(tokens[1])
    (note,) = noted(["Tom & Jerry", "Tom &amp; Jerry", "zebra"])
    assert note.startswith(
        "1 of 3 class names are written as in HTML (first: 'Tom &amp; Jerry'), which open_clip's tokenizer reads as 'Tom & Jerry'"
    )
    assert noted(["R&B music", "salt & pepper", "zebra"]) == []


def test_imagenet_v2_read_as_a_folder_a_class_is_told_as_what_it_is(tmp_path: Path) -> None:
    """Its folders sort as texts, 10 before 2: a head of ImageNet would be held against other classes."""
    data = ImageFolder(str(pictures(tmp_path, *map(str, range(1000)))), split=None).load(None)
    assert any("dataset=imagenet_v2" in note for note in data.notes)
    with pytest.raises(UserError, match="dataset=imagenet_v2"):
        Classification().check(CLIP, data)


def test_numbers_in_the_order_of_texts_are_told_where_a_head_is_trusted_with_them(tmp_path: Path) -> None:
    """Folders 0 to 10 stand in the order of torchvision, which another trainer's head need not have; it runs."""
    data = ImageFolder(str(pictures(tmp_path, *map(str, range(11)))), split=None).load(None)
    head: Any = SimpleNamespace(name="m", classify=1, class_ids=None, classes=None, tower=SimpleNamespace(num_classes=11))
    Classification().check(head, data)
    (note,) = (note for note in data.notes if "class order not checked" in note)
    assert "class 2 is '10' here, as torchvision sorts folders, and '2' where timm's train.py" in note


def test_a_segmentation_by_words_refuses_numbers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskclip, "find_tower", lambda tower: None)
    monkeypatch.setattr(maskclip, "_projection", lambda tower, name: None)
    dataset: Any = SimpleNamespace(name="maps", classes=["background", "1", "2"], notes=[])
    with pytest.raises(UserError, match=r"maps knows its classes by number.*dataset\.classes=\[name,\.\.\.\].*, or train a head"):
        MaskClip().check(CLIP, dataset)


@pytest.mark.parametrize(
    "classes",
    [
        ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"],
        ["001.Black_footed_Albatross", "017.Cardinal"],
        ["0_apple", "1_pear", "2_plum"],
        ["01cat", "02dog"],
        ["c0_safe driving", "c1_texting"],
        ["class 1 - cat", "class 2 - dog"],
        ["(1) cat", "(2) dog"],
        ["cat_0", "dog_1", "owl_2"],
        ["cat.jpg", "dog.PNG"],
        ["Chihuahua (n02085620)", "pug n02110958"],
        ["cat_d41d8cd98f00b204", "dog_a41d8cd98f00b204"],
    ],
    ids=" ".join,
)
def test_numbers_ids_and_suffixes_beside_words_are_noted_with_the_first(classes: list[str]) -> None:
    (note,) = noted(classes)
    assert note.startswith(f"{len(classes)} of {len(classes)} class names hold a number, an id or a file's suffix")
    assert f"(first: {classes[0].replace('_', ' ')})" in note
    assert "dataset.classes=TSV" in note


@pytest.mark.parametrize(
    "classes",
    [
        ["boeing 707", "boeing 727", "airbus 320"],
        ["F16 Falcon", "B52 Bomber", "A10 Thunderbolt"],
        ["BMW X5 2007", "Audi A4 2007"],
        ["7 up", "cola", "3d_printer"],
    ],
    ids=" ".join,
)
def test_numbers_that_are_part_of_names_are_not_doubted(classes: list[str]) -> None:
    assert noted(classes) == []


def test_a_name_is_not_cut_down_to_a_number() -> None:
    """Of "0, zero" the text would be "a photo of a 0."; synonyms are cut as before."""
    assert short_names(["0, zero", "n02085620, Chihuahua", "goldfish, Carassius"]) == [
        "0, zero",
        "n02085620, Chihuahua",
        "goldfish",
    ]
    assert [has_word(name) for name in ("0", "zero")] == [False, True]


# A 3: masks beyond their pictures


def coco(root: Path, *reaches: float, side: int = 200) -> CocoInstances:
    """A picture for each of ``reaches`` with a square, and one that ends so many pixels past the right edge."""
    (root / "val").mkdir(parents=True)
    whole = [10.0, 10, 90, 10, 90, 90, 10, 90]
    entries, masks = [], []
    for place, reach in enumerate(reaches):
        Image.fromarray(np.full((side, side, 3), place, np.uint8)).save(root / "val" / f"{place}.png")
        entries.append({"id": place, "file_name": f"{place}.png"})
        end = side + reach
        for polygon in (whole, [100.0, 10, end, 10, end, 90, 100, 90]):
            masks.append({"id": len(masks), "image_id": place, "category_id": 1, "segmentation": [polygon]})
    content = {"images": entries, "annotations": masks, "categories": [{"id": 1, "name": "cat"}]}
    (root / "a.json").write_text(json.dumps(content))
    return CocoInstances(str(root), annotations="a.json", images="val", split="val")


def test_polygons_of_pictures_that_were_resized_are_refused(tmp_path: Path) -> None:
    """Without width and height in the file nothing else tells that masks are displaced and cut off."""
    with pytest.raises(
        UserError, match=r"a\.json: of 6 masks 2 reach out of their images \(first: by 60 .* 1\.png\): were the .* resized"
    ):
        coco(tmp_path, -5, 60, 80).load(None)


def test_a_few_polygons_past_the_edge_are_noted(tmp_path: Path) -> None:
    notes = coco(tmp_path, -5, -5, 60).load(None).notes
    assert any("of 6 masks 1 reach out of their images (first: by 60 pixels out of 2.png)" in note for note in notes)


def test_polygons_a_hand_drew_past_the_edge_are_no_refusal(tmp_path: Path) -> None:
    """By 3 pixels in each picture: told; by a pixel: not even that."""
    assert any("of 4 masks 2 reach out" in note for note in coco(tmp_path / "three", 3, 3).load(None).notes)
    assert not any("reach out" in note for note in coco(tmp_path / "one", 1, 1).load(None).notes)


# 16: checkpoints


def test_a_trainers_folder_names_the_folders_that_hold_weights(tmp_path: Path) -> None:
    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in ("config.json", "model.safetensors"):
            (tmp_path / f"checkpoint-{step}" / name).write_text("{}")
    said = rf"2 folders in it do: {tmp_path}/checkpoint-500, {tmp_path}/checkpoint-1000"
    with pytest.raises(UserError, match=said):
        weights_file(tmp_path)
    with pytest.raises(UserError, match=rf"config\.json: .*{said}; give one with model\.checkpoint=FOLDER"):
        read_json(tmp_path / "config.json")
