"""Leftovers of a hunt: scraps of polygons, classes before splits, pictures of questions elsewhere, lists of classes that are
dictionaries or have a head line, texts of another length, networks by other names, heads of several classes, copies, animations."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import nn

from fna.data.asked_files import OwnQuestions
from fna.data.base import Captioned, Dataset
from fna.data.coco import CocoCaptions
from fna.data.coco_masks import CocoInstances
from fna.data.files import read_classes
from fna.data.imagefolder import ImageFolder
from fna.data.oddities import image_notes
from fna.data.tiny_imagenet import TinyImageNet
from fna.data.tsv import TsvCaptions
from fna.errors import UserError
from fna.models import heads, open_clip_files
from fna.models.hf import HuggingFaceModel
from fna.models.open_clip import OpenClipModel
from fna.models.text import Texts
from fna.networks import FAMILIES
from fna.options import choices, none_such
from fna.tasks.texts import note_cut

CPU: Any = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}
VISION: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 16}
SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]


def picture(path: Path, shade: int = 0) -> Path:
    """A picture of one colour, which ``shade`` tells from those of others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade % 256, shade // 256, 9)).save(path)
    return path


def tree(root: Path, *classes: str, first: int = 0) -> Path:
    """Folders of classes, two pictures in each, all different."""
    for place, name in enumerate(classes):
        for number in range(2):
            picture(root / name / f"{number}.png", first + place * 2 + number)
    return root


# polygons that enclose nothing


def instances(folder: Path, *segmentations: Any) -> Any:
    """A data set of one picture whose cups have these masks."""
    picture(folder / "a.png")
    told = [{"id": i, "image_id": 0, "category_id": 1, "segmentation": each} for i, each in enumerate(segmentations)]
    content = {"images": [{"id": 0, "file_name": "a.png"}], "annotations": told, "categories": [{"id": 1, "name": "cup"}]}
    (folder / "made.json").write_text(json.dumps(content))
    return CocoInstances(str(folder), annotations="made.json", images=".").load(None)


@pytest.mark.parametrize("scrap", [[], [3, 3], [3, 3, 7, 7]])
def test_polygons_of_fewer_than_three_points_beside_good_ones_are_left_out_and_counted(scrap: list[int], tmp_path: Path) -> None:
    """The whole file was refused; to pycocotools two points are a box."""
    (tmp_path / "whole").mkdir()
    data, whole = instances(tmp_path, [SQUARE, scrap]), instances(tmp_path / "whole", [SQUARE])
    assert np.array_equal(data.read_labels(data.examples[0]), whole.read_labels(whole.examples[0]))
    assert any("1 polygon of fewer than three points left out (first: " in note and "annotations[0]" in note for note in data.notes)
    assert not any("cover no pixel" in note for note in data.notes)
    assert not any("left out" in note for note in whole.notes)


@pytest.mark.parametrize("scraps", [[], [[]], [[3, 3]], [3, 3, 4, 4], [[3, 3, 7, 7], []]])
def test_a_mask_of_nothing_else_covers_no_pixel(scraps: list[Any], tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    data, whole = instances(tmp_path, [SQUARE], scraps), instances(tmp_path / "whole", [SQUARE])
    assert np.array_equal(data.read_labels(data.examples[0]), whole.read_labels(whole.examples[0]))
    assert "1 of 2 masks cover no pixel" in data.notes
    assert any("of fewer than three points left out" in note and "annotations[1]" in note for note in data.notes)


def test_a_file_of_boxes_alone_is_refused_as_that(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"annotations\[0\]: has no polygon of three points, nor has any other; a box alone is no mask"
    ):
        instances(tmp_path, [], [[]])
    with pytest.raises(UserError, match=r"a polygon of 3 numbers; x and y of each point are needed"):
        instances(tmp_path, [SQUARE, [1, 2, 3]])


# classes first, then splits


@pytest.mark.parametrize("asked", [{}, {"split": "train"}, {"split": "val"}, {"split": None}, {"split": "val", "train": "train"}])
def test_a_tree_with_the_splits_inside_the_classes_is_told_so(asked: dict[str, Any], tmp_path: Path) -> None:
    """The root that was proposed (ROOT/cat) holds one class."""
    for shade, name in enumerate(("cat", "dog")):
        tree(tmp_path / name, "train", "val", first=10 * shade)
    with pytest.raises(
        UserError, match=r"the classes come first and the splits in them \(cat/(train|val)\); put the split first"
    ) as said:
        ImageFolder(str(tmp_path), **asked).load(None)
    split = asked.get("split") or "val"
    assert f"as {tmp_path}/cat/{split} to {tmp_path}/{split}/cat, and give dataset.split={split}" in str(said.value)
    for part in ("train", "val"):  # as it was told to
        (tmp_path / part).mkdir()
        for name in ("cat", "dog"):
            (tmp_path / part / name).symlink_to(tmp_path / name / part)
    data = ImageFolder(str(tmp_path), split="val", train="train").load(None)
    assert (data.classes, len(data.examples)) == (["cat", "dog"], 4)
    assert data.training is not None
    assert len(data.training().examples) == 4


def test_other_layouts_are_not_taken_for_that(tmp_path: Path) -> None:
    tree(tmp_path / "images", "train", "val")
    tree(tmp_path / "labels", "train", "val")
    for folder in ("one", "other"):  # two data sets
        tree(tmp_path / "more" / folder / "train", "cat", "dog")
    for root in (tmp_path, tmp_path / "more"):
        with pytest.raises(UserError) as said:
            ImageFolder(str(root)).load(None)
        assert "classes come first" not in str(said.value)


# pictures of one's own questions and captions that lie elsewhere than they are named


@pytest.mark.parametrize("name", ["C:\\data\\pics\\a.png", "/home/me/pics/a.png", "images/a.png", "./a.png", "https://x.org/a.png"])
def test_pictures_of_questions_and_tables_of_captions_are_found_by_paths_of_another_machine(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "q.jsonl").write_text(json.dumps({"image": name, "question": "What?", "answers": "a cup"}))
    asked = OwnQuestions(str(tmp_path), "q.jsonl", "images").load(None)
    (tmp_path / "c.tsv").write_text(f"filepath\tcaptions\n{name}\t['a cup']\n")
    told = TsvCaptions(str(tmp_path), "c.tsv", "images").load(None)
    for data in (asked, told):
        assert data.examples[0].image == tmp_path / "images" / "a.png"
        assert any("give another folder (" in note for note in data.notes) == ("pics" in name)


def test_a_picture_of_a_question_in_another_split_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "a.png")
    (tmp_path / "q.jsonl").write_text(json.dumps({"image": "/data/train/a.png", "question": "What?", "answers": "a cup"}))
    with pytest.raises(UserError, match=r"q\.jsonl, line 1: /data/train/a\.png is not there, and .*a\.png is of another split"):
        OwnQuestions(str(tmp_path), "q.jsonl", "val").load(None)
    (tmp_path / "q.jsonl").write_text(json.dumps({"image": "http://[x/a.png", "question": "What?", "answers": "a cup"}))
    with pytest.raises(UserError, match=r"q\.jsonl, line 1: image is 'http://\[x/a\.png'; the name of a file is needed"):
        OwnQuestions(str(tmp_path), "q.jsonl", "val").load(None)


@pytest.mark.parametrize("content", ['{"image": "a.png", "question" "What?"}', '[{"image": "a.png",}]'])
def test_a_questions_file_of_ones_own_is_to_be_mended_not_only_fetched(content: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"not JSON .*; mend (it there|that line), or fetch (it|the file) again"):
        OwnQuestions(str(tmp_path), "q.jsonl", ".").load(None)


# lists of classes that are dictionaries, or have a head line


def dictionary(file: Path, *own: str) -> Path:
    """82,115 lines as words.txt of Tiny-ImageNet has them."""
    lines = [f"n{place:08}\tthing {place}" for place in range(82_115 - len(own))]
    file.write_text("\n".join([*lines[:9], *(f"{name}\tname of {name}" for name in own), *lines[9:]]))
    return file


def test_of_a_dictionary_the_classes_are_taken_that_are_there(tmp_path: Path) -> None:
    """A CLIP was asked about all 82,115."""
    root = tree(tmp_path / "root" / "train", "nb", "na").parent
    tree(root / "val", "nb", "na", first=20)
    listed = dictionary(tmp_path / "words.txt", "nb", "na")
    data = ImageFolder(str(root), "val", str(listed), train="train").load(None)
    assert (data.class_ids, data.classes) == (["nb", "na"], ["name of nb", "name of na"])
    assert {one.key: one.label for one in data.examples} == {"na/0.png": 1, "na/1.png": 1, "nb/0.png": 0, "nb/1.png": 0}
    assert any("words.txt: of its 82,115 lines those of the 2 classes that are here are taken" in note for note in data.notes)
    assert data.training is not None
    assert [one.label for one in data.training().examples] == [1, 1, 0, 0]
    tiny = tmp_path / "tiny" / "val"
    for name in ("a.JPEG", "b.JPEG"):
        picture(tiny / "images" / name, ord(name[0]))
    (tiny / "val_annotations.txt").write_text("a.JPEG\tna\nb.JPEG\tnb\n")
    assert TinyImageNet(str(tiny.parent), "val", str(listed)).load(None).classes == ["name of nb", "name of na"]


def test_splits_of_which_each_takes_others_of_a_dictionary_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "train", "na", "nb", "nc")
    tree(tmp_path / "val", "na", "nb", first=20)
    listed = dictionary(tmp_path / "words.txt", "na", "nb", "nc")
    data = ImageFolder(str(tmp_path), "val", str(listed), train="train").load(None)
    assert data.training is not None
    with pytest.raises(UserError, match=r"dataset\.train=train: its 3 classes are not the 2 asked about \(first: nc\); list"):
        data.training()


def test_a_list_of_more_classes_than_there_are_folders_stays_whole_where_a_head_may_know_them(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("\n".join(f"n{place}\tthing {place}" for place in range(1000)))
    data = ImageFolder(str(tree(tmp_path / "root", "n3", "n7")), None, str(tmp_path / "list.tsv")).load(None)
    assert len(data.classes) == 1000
    assert [one.label for one in data.examples] == [3, 3, 7, 7]


@pytest.mark.parametrize("head", ["id\tname", "label\tname", "Class_ID\tclass name", "WNID\twords", "class"])
def test_a_head_line_of_a_list_of_classes_is_no_class(head: str, tmp_path: Path) -> None:
    """It became class 0."""
    (tmp_path / "list.tsv").write_text(f"{head}\nca\tcat\ndo\tdog\n")
    data = ImageFolder(str(tree(tmp_path / "root", "ca", "do")), None, str(tmp_path / "list.tsv")).load(None)
    assert data.classes == ["cat", "dog"]
    assert any("list.tsv: its first line (" in note and "is read as a head line, not as a class" in note for note in data.notes)
    assert heads.listed(str(tmp_path / "list.tsv"), 2) == (["ca", "do"], ["cat", "dog"])


def test_a_class_that_is_called_as_a_head_line_is_one_where_its_folder_is_there(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("label\tlabel\nbox\tbox\n")
    data = ImageFolder(str(tree(tmp_path / "root", "label", "box")), None, str(tmp_path / "list.tsv")).load(None)
    assert data.classes == ["label", "box"]
    assert heads.listed(str(tmp_path / "list.tsv"), 2)[1] == ["label", "box"]
    assert read_classes(str(tmp_path / "list.tsv"))[0] == ["label", "box"]


# text towers of another length


class Net(nn.Module):
    """The tensors of a CLIP that tell how much of a text it reads."""

    def __init__(self, length: int, second: bool = False) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(7, 4)
        self.positional_embedding = nn.Parameter(torch.zeros(length, 4))
        if second:
            self.positional_embedding_res = nn.Parameter(torch.zeros(length, 4))


def refused(path: Path, second: bool = False) -> str:
    with pytest.raises(UserError) as said:
        open_clip_files.fit(str(path), Net(248, second).state_dict(), Net(77), "ViT-L-14")
    return str(said.value)


def test_a_text_tower_of_another_length_is_told_what_runs_it(tmp_path: Path) -> None:
    own = refused(tmp_path / "long.pt")
    assert "all else fits: its text tower reads 248 tokens: write open_clip's config of ViT-L-14 with context_length: 248" in own
    assert f"model.name=local-dir:FOLDER model.checkpoint={tmp_path}/long.pt" in own
    two = refused(tmp_path / "long.pt", second=True)
    assert "reads 248 tokens, by two tables of positions, as Long-CLIP's own files have them" in two
    (mend,) = re.findall(r"save it with one, (.*); then write open_clip's config .* model.checkpoint=FILE", two)
    state = Net(248, second=True).state_dict()
    state["positional_embedding_res"] += 1
    exec(mend, {"state": state})
    assert state.keys() == Net(248).state_dict().keys()
    assert state["positional_embedding"].mean(1).tolist() == [0.0] * 20 + [1.0] * 228
    (tmp_path / "config.json").write_text("{}")
    assert f"is run by model=hf model.checkpoint={tmp_path}" in refused(tmp_path / "model.safetensors")


def test_and_that_does_run_it(tmp_path: Path) -> None:
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 248, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    made = OpenClipModel(name=f"local-dir:{tmp_path}", random=True).build(**CPU)
    torch.save(made.tower.state_dict(), tmp_path / "long.pt")
    model = OpenClipModel(name=f"local-dir:{tmp_path}", checkpoint=str(tmp_path / "long.pt")).build(**CPU)
    assert model.cut_texts is not None
    assert not model.cut_texts(["a red cat " * 50])
    assert model.cut_texts(["a red cat " * 90])


# networks by the names that they have elsewhere


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dinov2-base", "dinov2"),
        ("dinov2-large", "dinov2_l14"),
        ("dinov2_vits14", "dinov2_s14"),
        ("dinov2-with-registers-base", "dinov2_reg"),
        ("dinov2-giant", "vit model.name=vit_giant_patch14_dinov2.lvd142m"),
        ("clip-vit-large", "clip_l14"),
        ("clip-vit-large-patch14-336", "clip_l336"),
        ("clip-vit-base-patch32", "clip_b32"),
        ("ViT-L/14", "clip_l14"),
        ("ViT-B/32", "clip_b32"),
        ("vit-base", "vit_b16"),
        ("vit-base-patch16-224", "vit_b16"),
        ("vit_tiny", "vit model.name=vit_tiny_patch16_224"),
        ("deit-small", "vit model.name=deit_small_patch16_224"),
    ],
)
def test_a_network_by_its_name_elsewhere_is_told_what_is_typed_for_it(name: str, meant: str) -> None:
    """DINOv2-base was asked whether DINOv2-small was meant, ViT-base nothing or another."""
    assert f"did you mean model={meant}? " in str(none_such("model", name, choices("model")))


def test_what_is_told_is_there() -> None:
    options = choices("model")
    for _, sizes in FAMILIES:
        for typed in sizes.values():
            option, _, name = typed.partition(" model.name=")
            assert {*option.split(" or ")} <= {*options}
            assert not name or timm.is_model(name.partition(".")[0])
            assert "." not in name or name in timm.list_pretrained(f"{name.partition('.')[0]}.*")
    assert "model=clip_l14 model.name=ViT-B-16" in str(none_such("model", "ViT-B-16", options))  # open_clip's own names
    assert "model=hf model.name=facebook/dinov2-base" in str(none_such("model", "facebook/dinov2-base", options))


# heads and positions of transformers


def folder(path: Path, made: Any, **config: Any) -> str:
    made.save_pretrained(path)
    said = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(said | config))
    return str(path)


@pytest.mark.parametrize(("kind", "said"), [("multi_label_classification", "and several may"), ("regression", "is a quantity")])
def test_a_head_that_names_several_classes_of_an_image_is_noted(kind: str, said: str, tmp_path: Path) -> None:
    net = transformers.ViTForImageClassification(transformers.ViTConfig(**VISION, num_labels=3))
    where = folder(tmp_path, net, problem_type=kind)
    notes = HuggingFaceModel(checkpoint=where).build(**CPU).notes
    assert any(f"problem_type is {kind}: " in note and said in note and "the highest row counts" in note for note in notes)
    where = folder(tmp_path, net, problem_type="single_label_classification")
    assert not any("problem_type" in note for note in HuggingFaceModel(checkpoint=where).build(**CPU).notes)


def test_rotary_positions_are_not_said_to_be_resampled(tmp_path: Path) -> None:
    for name, resampled in (("DINOv3ViT", False), ("ViT", True)):
        net = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**VISION))
        where = folder(tmp_path / name, net)
        notes = HuggingFaceModel(checkpoint=where).build(**CPU | {"image_size": 64}).notes
        assert any("position table resampled" in note for note in notes) == resampled


# copies to learn from, animations, texts that are cut alike


def test_copies_in_two_classes_among_what_is_learnt_from_are_noted(tmp_path: Path) -> None:
    tree(tmp_path / "train", "cat", "dog")
    tree(tmp_path / "val", "cat", "dog", first=20)
    data = ImageFolder(str(tmp_path), "val", train="train").load(None)
    assert data.training is not None
    data.training()
    assert not any("another class" in note for note in data.notes)
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "train" / "dog" / "7.png")
    for given in ({"split": "val", "train": "train"}, {"split": "train", "bank": 3}):
        picture(tmp_path / "train" / "cat" / "9.png", 50)
        picture(tmp_path / "train" / "cat" / "a.png", 51)
        data = ImageFolder(str(tmp_path), **given).load(None)
        assert data.training is not None
        data.training()
        (note,) = [note for note in data.notes if "in another class" in note]
        assert "to learn from: 1 picture of " in note
        assert "is a copy of one in another class, byte for byte (first: dog/7.png is cat/0.png)" in note


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "GIF"), ("a.webp", "WEBP")])
def test_animations_are_noted_whatever_they_are_called(name: str, kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 90, 200)]
    frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:])
    notes = image_notes([picture(tmp_path / "still.png"), tmp_path / name])
    assert len(notes) == 1
    assert (
        "several pages or frames" in notes[0] if kind == "WEBP" else "is an animation, of which the first frame is read" in notes[0]
    )


def test_texts_that_are_cut_to_the_same_beginning_are_noted() -> None:
    tower: Any = SimpleNamespace()
    texts = Texts(tower, torch.device("cpu"), lambda: open_clip.get_tokenizer("ViT-B-32"))
    model: Any = SimpleNamespace(name="ViT-B-32", cut_texts=texts.cut)
    long = "a red cat on a mat " * 20

    def noted(*captions: str) -> str:
        data: Any = Dataset("captions", "val", "photographs", "0", [Captioned("0", Path("0.png"), captions)])
        note_cut(model, data, captions)
        return " ".join(data.notes)

    assert "2 of 3 texts are longer than" in noted("a cat", f"{long} by day", f"{long} by night")
    assert "2 of them are read the same as another" in noted("a cat", f"{long} by day", f"{long} by night")
    assert "the same as another" not in noted(f"{long} by day", f"two dogs {long}")


def test_captions_are_read_as_before(tmp_path: Path) -> None:
    content = {"images": [{"id": 0, "file_name": "http://[x"}], "annotations": [{"image_id": 0, "caption": "a cup"}]}
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"images\[0\]: file_name is 'http://\[x'; the name of a file is needed"):
        CocoCaptions(str(tmp_path), "c.json", ".", "val").load(None)
