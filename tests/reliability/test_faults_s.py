"""What a newcomer with the README alone stumbled over in the first hour: samplers, masks, loaders and folders of one's own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import fna
from fna.configs import build_attention, instantiate, load_option
from fna.data.coco import CocoCaptions
from fna.data.imagefolder import ImageFolder
from fna.errors import UserError
from fna.ops.landmarks import Landmarks
from fna.tasks.learnt import Neighbours

ROOT = Path(__file__).resolve().parents[2]
Q = torch.randn(2, 3, 20, 8, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, Any] = {"rounds": 0, "bootstrap": 100, "landmarks": 4}


@dataclass(frozen=True)
class First:
    """The first tokens."""

    gives: ClassVar[type] = Landmarks

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any, count: int, keep: Any = None, drop: Any = None) -> Landmarks:
        return Landmarks(torch.arange(count).expand(len(k), -1))


@dataclass(frozen=True)
class Gives:
    """Landmarks made by a function of (batch, count)."""

    made: Callable[[int, int], Any]
    gives: ClassVar[type] = Landmarks

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any, count: int, keep: Any = None, drop: Any = None) -> Any:
        return self.made(len(k), count)


class Mute:
    """Says not what it gives."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any, count: int, keep: Any = None, drop: Any = None) -> Landmarks:
        return Landmarks(torch.arange(count).expand(len(k), -1))


@dataclass
class Hashless:
    """Cannot be a key."""

    gives: ClassVar[type] = Landmarks

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any, count: int, keep: Any = None, drop: Any = None) -> Landmarks:
        return Landmarks(torch.arange(count).expand(len(k), -1))


class Short:
    """Takes too little."""

    gives: ClassVar[type] = Landmarks

    def __call__(self, q: Tensor, count: int) -> Landmarks:
        return Landmarks(torch.arange(count)[None])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return timm.create_model("test_vit", num_classes=3, img_size=96).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(6, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def test_a_sampler_of_ones_own_is_handed_over_as_an_object(model: nn.Module, images: Tensor) -> None:
    first = fna.attention(Q, Q, Q, "subset", landmarks=5, sampler=First())
    shown = Q[:, :, :5]
    torch.testing.assert_close(first, nn.functional.scaled_dot_product_attention(Q, shown, shown))
    with fna.swap(model, "fna", landmarks=4, sampler=First()):
        changed = model(images)
    with fna.swap(model, "fna", landmarks=4):
        assert not torch.equal(model(images), changed)
    found = fna.compare(model, [images], "fna", sampler=First(), versus=[{"sampler": "fps"}], **QUICK).result
    assert [one["sampler"] for one in found["contenders"]] == ["First", "fps"]
    with pytest.raises(UserError, match=r"attn=exact does not draw tokens by it"):
        fna.swap(model, "exact", sampler=First())


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (Mute(), r"sampler Mute does not say what it gives: add gives: ClassVar\[type\] = Landmarks"),
        (First, r"sampler First is a class: hand over an object of it, First\(\)"),
        (Short(), r"sampler Short has to be called on q, k, v, site, count, keep, drop"),
        (Hashless(), r"sampler Hashless cannot be told from others .*frozen=True"),
        (7, r"sampler=7: give one of fps, .*or a sampler of your own"),
        (Gives(lambda b, m: torch.arange(m)), "sampler Gives gave Tensor: return Landmarks"),
        (Gives(lambda b, m: Landmarks(torch.arange(m))), r"gave index torch\.int64 \[4\] on cpu: return int64 \[2, 4\]"),
        (Gives(lambda b, m: Landmarks(torch.zeros(b, m))), r"gave index torch\.float32 \[2, 4\] on cpu: return int64"),
        (Gives(lambda b, m: Landmarks(torch.zeros(b, m - 1).long())), r"gave index torch\.int64 \[2, 3\]"),
        (
            Gives(lambda b, m: Landmarks(torch.arange(m).expand(b, -1), torch.ones(b, m))),
            r"gave valid torch\.float32 .*return bool",
        ),
        (Gives(lambda b, m: Landmarks(torch.arange(m).expand(b, -1) + 18)), r"gave index 20: there are tokens 0 to 19"),
        (Gives(lambda b, m: Landmarks(torch.full((b, m), 3))), r"gave token 3 twice in a row"),
    ],
)
def test_what_is_no_sampler_is_told_what_it_lacks_or_gave_wrong(sampler: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        fna.attention(Q, Q, Q, "fna", landmarks=4, sampler=sampler)
    assert "\n" not in str(refused.value)


def test_a_sampler_may_pad_but_not_take_tokens_that_must_not_be_seen() -> None:
    keys = torch.ones(2, 20, dtype=torch.bool)
    keys[1, 2:] = False
    with pytest.raises(UserError, match=r"gave token 2, which is in drop"):
        fna.attention(Q, Q, Q, "fna", landmarks=4, sampler=First(), keys=keys)
    index = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]])
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    padded = Gives(lambda b, m: Landmarks(index, valid))
    assert fna.attention(Q, Q, Q, "fna", landmarks=4, sampler=padded, keys=keys).isfinite().all()


def test_the_readmes_sampler_works_from_its_file_and_its_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there: one file, one line of YAML, FNA_CONF_DIR."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("**A sampler**")[2]
    code = text.partition("\n\n")[2].partition("\nA task ")[0]
    (tmp_path / "first.py").write_text("\n".join(line.removeprefix("       ") for line in code.splitlines()))
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "first.yaml").write_text(f"{re.findall(r'`(_target_: [^`]*)`', text)[0]}\n")
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        op = build_attention("subset", sampler="first", landmarks=5)
        torch.testing.assert_close(fna.attention(Q, Q, Q, op), fna.attention(Q, Q, Q, "subset", landmarks=5, sampler=First()))
    finally:
        sys.modules.pop("first", None)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mask", r"has no mask: padding is keys=, bool \[batch, tokens\], True where a key may be seen"),
        ("attn_mask", r"padding is keys=.*causal=True alone"),
        ("key_padding_mask", r"keys=.*~key_padding_mask"),
        ("is_causal", r"write causal=True"),
        ("dropout_p", r"nothing is dropped"),
        ("reduce", r"it is of fna\.swap"),
    ],
)
def test_words_of_torchs_attention_are_told_how_fna_says_them(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fna.attention(Q, Q, Q, "fna", **{word: None})


def test_a_keyword_of_another_function_is_not_asked_back(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"has no option keys; it has") as refused:
        fna.swap(model, "fna", keys=None)
    assert "did you mean" not in str(refused.value)


class Once:
    """Begins anew never, and does not say so."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.left = batches

    def __iter__(self) -> Once:
        return self

    def __next__(self) -> Tensor:
        if not self.left:
            raise StopIteration
        return self.left.pop()


def test_a_loader_that_is_exhausted_after_one_pass_is_called_so(
    model: nn.Module, images: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"the loader is a generator: after one pass it is exhausted: .*a DataLoader or list"):
        fna.compare(model, (images for _ in range(2)), "fna", **QUICK)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UserError, match=r"batches once and none in this pass: it is exhausted"):
        fna.compare(model, Once([images]), "fna", **QUICK)


def test_a_metric_without_a_name_is_called_metric(model: nn.Module, images: Tensor) -> None:
    def near(out: Tensor, targets: Tensor, *, within: float) -> Tensor:
        return (out[:, 0] < within).float()

    batches = [(images, torch.zeros(6))]
    for metric, name in ((lambda out, targets: out[:, 0] > 0, "metric"), (partial(near, within=1.0), "near")):
        assert [*fna.compare(model, batches, "fna", metric=metric, **QUICK).result["metrics"]] == [name]


def test_top1_of_what_may_be_an_embedding_is_noted(model: nn.Module, images: Tensor) -> None:
    batches = [(images, torch.tensor([0, 1, 2, 0, 1, 2]))]

    def embed(pixels: Tensor) -> Tensor:
        return model.forward_features(pixels).mean(1)  # type: ignore[operator]

    notes = fna.compare(model, batches, "fna", metric="top1", forward=embed, **QUICK).result["notes"]
    assert any(re.search(r"top1: 64 outputs, and no target is above 2.*embedding, leave metric out", note) for note in notes)
    assert not any("embedding" in note for note in fna.compare(model, batches, "fna", metric="top1", **QUICK).result["notes"])


def tree(folder: Path, *splits: str, each: int = 3) -> Path:
    for number, name in enumerate(f"{split}/{kind}" for split in splits for kind in ("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for one in range(each):
            Image.new("RGB", (8, 8), (one, number, 0)).save(folder / name / f"{one}.png")
    return folder


def test_a_bank_of_a_folder_without_splits_is_not_called_none(tmp_path: Path) -> None:
    data = ImageFolder(str(tree(tmp_path, "pets") / "pets"), bank=2).load(None)
    assert data.split == "all but 2 of each class"
    assert ImageFolder(str(tree(tmp_path, "val")), split="val", bank=2).load(None).split == "val without 2 of each class"


def test_a_task_that_learns_names_the_folders_that_it_sees(tmp_path: Path) -> None:
    source = ImageFolder(str(tree(tmp_path, "train", "val")))
    with pytest.raises(UserError, match=r"dataset\.train=SPLIT, or dataset\.bank=4.*; beside it there is train\."):
        Neighbours().check_source(source)
    tree(tmp_path, "test")
    with pytest.raises(UserError, match=r"there is test, train\."):
        Neighbours().check_source(source)


def test_a_k_that_takes_all_images_to_learn_from_is_noted(tmp_path: Path) -> None:
    data = ImageFolder(str(tree(tmp_path, "train", "val")), split="val", train="train").load(None)
    assert Neighbours(k=5).notes(None, data) == ["nearest neighbours: learnt from 6 images"]  # type: ignore[arg-type]
    assert any("task.k=20 and 6 images to learn from: all of them vote" in note for note in Neighbours().notes(None, data))  # type: ignore[arg-type]


def test_captioned_images_that_are_not_there_are_left_out_if_asked_and_counted(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(5)]
    for name in names[1:]:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"id": number, "image_id": number, "caption": name} for number, name in enumerate(names)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    refused = CocoCaptions(str(tmp_path), "captions.json", ".", "unknown")
    with pytest.raises(UserError, match=r"1 of the annotated files is not there, 0\.png .*dataset\.missing=skip goes on without"):
        refused.load(None)
    asked = CocoCaptions(str(tmp_path), "captions.json", ".", "unknown", missing="skip")
    data = asked.load(2)
    assert [example.key for example in data.examples] == names[1:3]
    assert "1 of 5 images left out: not there (first: 0.png)" in data.notes
    for name in names[2:]:
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"annotated files are not there") as most:
        refused.load(None)
    assert "missing=skip" not in str(most.value)  # another folder is meant
    (tmp_path / names[1]).unlink()
    with pytest.raises(UserError, match=r"5 of the annotated files are not there"):
        asked.load(None)


def test_ones_own_label_maps_are_read_by_the_readmes_line(tmp_path: Path) -> None:
    """DIR/images/val/NAME.jpg beside DIR/labels/val/NAME.png, and the classes."""
    for split in ("train", "val"):
        for part, suffix in (("images", "jpg"), ("labels", "png")):
            (tmp_path / part / split).mkdir(parents=True)
            pixels = np.zeros((8, 8, 3) if part == "images" else (8, 8), np.uint8)
            pixels[:, 4:] = 1
            Image.fromarray(pixels).save(tmp_path / part / split / f"a.{suffix}")
    node = load_option("dataset", "label_maps")
    node.root, node.classes = str(tmp_path), ["background", "cat"]
    data = instantiate(node).load(None)
    assert np.unique(data.read_labels(data.examples[0])).tolist() == [0, 1]
    assert [len(data.training().examples), *data.classes] == [1, "background", "cat"]
