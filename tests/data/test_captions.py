"""Captioned images: COCO's own files, Karpathy's, and the authors' TSV, on made-up files and on the real ones."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fna.data.base import Captioned, Dataset, listed_once
from fna.data.coco import CocoCaptions
from fna.data.imagefolder import ImageFolder
from fna.data.karpathy import KarpathyCaptions
from fna.data.tsv import TsvCaptions
from fna.errors import UserError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Images 9 (three captions, ids out of order), 4 (one) and 5 (none), in this order."""
    for number in (9, 4, 5):
        picture(tmp_path / f"val2017/{number:012d}.jpg")
    notes = [(30, 9, "third"), (10, 9, " first\n"), (40, 4, "only"), (20, 9, "second")]
    content = {
        "images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (9, 4, 5)],
        "annotations": [{"id": key, "image_id": image, "caption": text} for key, image, text in notes],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    return tmp_path


def official(folder: Path, **options: Any) -> CocoCaptions:
    return CocoCaptions(**{"root": str(folder), "annotations": "captions.json", "images": "val2017", "split": "val2017", **options})


def test_coco_order_and_captions(coco: Path) -> None:
    data = official(coco, complete=5000).load(None)
    assert [(example.key, example.captions) for example in data.examples] == [
        ("000000000009.jpg", ("first", "second", "third")),
        ("000000000004.jpg", ("only",)),
    ]
    assert data.split == "val2017"
    assert data.notes == ["1 image without captions left out", "captions.json holds 3 images, not the 5000 of val2017"]
    first_two = official(coco, captions_per_image=2).load(1)
    assert [example.captions for example in first_two.examples] == [("first", "second")]
    assert first_two.digest != data.digest


def test_coco_files_that_are_wrong(coco: Path) -> None:
    (coco / "val2017/000000000004.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the annotated files is not there, 000000000004\.jpg"):
        official(coco).load(None)
    assert len(official(coco).load(1).examples) == 1
    for text, words in (
        ('{"images": [\n oops', r"captions\.json: not JSON at line 2, column 2"),
        ("[]", "no COCO captions file"),
        ("{}", "no COCO"),
    ):
        (coco / "captions.json").write_text(text)
        with pytest.raises(UserError, match=words):
            official(coco).load(None)
    (coco / "captions.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="no UTF-8 at byte 7"):
        official(coco).load(None)
    for options, words in (
        ({"annotations": "x.json"}, "no such file"),
        ({"images": "x"}, "no such folder"),
        ({"root": "/x"}, r"dataset\.root"),
    ):
        with pytest.raises(UserError, match=words):
            official(coco, **options).check()
    with pytest.raises(ValueError, match="give all or a count"):
        official(coco, captions_per_image=0)


def test_real_coco(shared_data: Path) -> None:
    data = official(shared_data / "coco_mini", annotations="annotations/captions_val2017.json").load(None)
    assert (len(data.examples), sum(len(example.captions) for example in data.examples)) == (79, 395)


def entry(split: str, number: int, captions: list[str], **more: Any) -> dict[str, Any]:
    sentences = [{"raw": text, "sentid": 100 - index} for index, text in enumerate(captions)]
    return {"filename": f"COCO_val2014_{number:012d}.jpg", "split": split, "sentences": sentences[::-1], **more}


@pytest.fixture
def karpathy(tmp_path: Path) -> Path:
    """Test images 1 (where the file says), 2 (in val2017) and 3 (in train2017); one of another split that is not there."""
    content = [entry("test", number, ["b ", "a"], filepath="val2014", cocoid=number) for number in (1, 2, 3)]
    content.insert(1, entry("restval", 7, ["c"], filepath="val2014", cocoid=7))
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": content, "dataset": "coco"}))
    for name in ("val2014/COCO_val2014_000000000001.jpg", "val2017/000000000002.jpg", "train2017/000000000003.jpg"):
        picture(tmp_path / name)
    return tmp_path


def test_karpathy_split_and_places(karpathy: Path) -> None:
    data = KarpathyCaptions(str(karpathy), "dataset_coco.json").load(None)
    assert [example.image.relative_to(karpathy).parts[0] for example in data.examples] == ["val2014", "val2017", "train2017"]
    assert {example.captions for example in data.examples} == {("a", "b")}
    assert (data.split, data.name) == ("test", "coco_karpathy")
    assert len(KarpathyCaptions(str(karpathy), "dataset_coco.json").load(2).examples) == 2
    with pytest.raises(UserError, match="1 of the annotated files is not there"):
        KarpathyCaptions(str(karpathy), "dataset_coco.json", split="restval").load(None)
    with pytest.raises(UserError, match="no captioned image of split dev"):
        KarpathyCaptions(str(karpathy), "dataset_coco.json", split="dev").load(None)
    (karpathy / "dataset_coco.json").write_text('{"annotations": []}')
    with pytest.raises(UserError, match="not in Karpathy's format"):
        KarpathyCaptions(str(karpathy), "dataset_coco.json").load(None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": None}, r"images\[0\]: split is null"),
        ({"filename": None}, r"images\[0\]: filename is null"),
        ({"filename": 7}, r"images\[0\]: filename is 7"),
        ({"filepath": ["val2014"]}, r"images\[0\]: filepath is \['val2014'\]"),
        ({"cocoid": "1x"}, r"images\[0\]: cocoid is '1x'"),
        ({"sentences": None}, r"images\[0\]: sentences is null"),
        ({"sentences": {"raw": "a"}}, r"images\[0\]: sentences is \{"),
        ({"sentences": ["a"]}, r"images\[0\]\.sentences\[0\]: 'a' is no entry"),
        ({"sentences": [{"sentid": 1}]}, r"images\[0\]\.sentences\[0\]: raw is missing; it holds sentid"),
        ({"sentences": [{"sentid": 1, "raw": None}]}, r"sentences\[0\]: raw is null"),
        ({"sentences": [{"sentid": [], "raw": "a"}]}, r"sentences\[0\]: sentid is \[\]"),
        ({"filename": "COCO_val2014_000000000002.jpg", "cocoid": 2}, r"COCO_val2014_000000000002\.jpg is listed twice"),
    ],
)
def test_karpathy_entries_that_cannot_be_read_are_refused_at_load(changes: Any, words: str, karpathy: Path) -> None:
    file = karpathy / "dataset_coco.json"
    content = json.loads(file.read_text())
    content["images"][0] |= changes
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words) as caught:
        KarpathyCaptions(str(karpathy), "dataset_coco.json").load(None)
    assert "\n" not in str(caught.value)


def test_karpathy_sentences_without_ids_stay_in_order(karpathy: Path) -> None:
    file = karpathy / "dataset_coco.json"
    content = json.loads(file.read_text())
    content["images"][0]["sentences"] = [{"raw": "z"}, {"raw": "a"}]
    file.write_text(json.dumps(content))
    assert KarpathyCaptions(str(karpathy), "dataset_coco.json").load(1).examples[0].captions == ("z", "a")


def test_flickr30k_is_the_same_format_without_paths(tmp_path: Path) -> None:
    sentences = [{"raw": f"caption {index}", "sentid": index} for index in range(5)]
    content = {"images": [{"filename": "10.jpg", "split": "test", "sentences": sentences}]}
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(content))
    picture(tmp_path / "flickr30k-images/10.jpg")
    source = KarpathyCaptions(str(tmp_path), "dataset_flickr30k.json", images="flickr30k-images", name="flickr30k")
    assert [len(example.captions) for example in source.load(None).examples] == [5]


def table(root: Path, *rows: str, header: str = "filepath\tcaptions") -> TsvCaptions:
    (root / "captions.tsv").write_text("\n".join([header, *rows]) + "\n")
    return TsvCaptions(str(root), "captions.tsv", images="pictures")


def test_tsv(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "pictures" / name)
    absolute = tmp_path / "pictures" / "b.jpg"
    quoted = """\"[""It's one"", 'two, three']\""""
    data = table(tmp_path, f"a.jpg\t{quoted}", f"{absolute}\t['x\\ty']").load(None)
    assert [example.captions for example in data.examples] == [("It's one", "two, three"), ("x\ty",)]
    assert data.examples[1].image == absolute
    assert data.split == "unknown"


def test_tsv_with_a_caption_a_line(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "pictures" / name)
    data = table(tmp_path, "a.jpg\t['one']", "b.jpg\t['three']", "a.jpg\t['two']").load(None)
    assert [(example.key, example.captions) for example in data.examples] == [("a.jpg", ("one", "two")), ("b.jpg", ("three",))]


@pytest.mark.parametrize("cell", ["__import__('os').system('true')", "no list", "[1, 2]", "['a'", "('a' + 'b')", ""])
def test_tsv_evaluates_nothing(cell: str, tmp_path: Path) -> None:
    picture(tmp_path / "pictures/a.jpg")
    with pytest.raises(UserError, match=r"captions\.tsv, line 2: captions are no Python list"):
        table(tmp_path, f"a.jpg\t{cell}").load(None)


def test_tsv_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="filepath and captions are needed"):
        table(tmp_path, "a\tb", header="picture\twords").load(None)
    with pytest.raises(UserError, match=r"not there, a\.jpg"):
        table(tmp_path, "a.jpg\t['x']").load(None)
    with pytest.raises(UserError, match="no captioned image"):
        table(tmp_path).load(None)


def test_tsv_lines_that_cannot_be_read_are_refused_at_load(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/a.jpg")
    for rows, words in (
        (["\t['x']"], "line 2: no filepath"),
        (["a.jpg"], "line 2: captions are no Python list"),
        (["a.jpg\t['x']", "./a.jpg\t['y']"], r"\./a\.jpg is listed twice, as a\.jpg too"),
        (["a.jpg\t['\\ud800']"], "line 2: captions are no Python list"),
        (["a.jpg\t[None]"], "line 2: captions are no Python list"),
    ):
        with pytest.raises(UserError, match=words):
            table(tmp_path, *rows).load(None)
    (tmp_path / "captions.tsv").write_bytes(b"filepath\tcaptions\na.jpg\t['caf\xe9']\n")
    with pytest.raises(UserError, match=r"captions\.tsv: not a TSV"):
        TsvCaptions(str(tmp_path), "captions.tsv", images="pictures").load(None)
    (tmp_path / "captions.tsv").write_text("filepath\tcaptions\na.jpg\t['x']\n", encoding="utf-8-sig")
    assert len(TsvCaptions(str(tmp_path), "captions.tsv", images="pictures").load(None).examples) == 1


def test_a_sample_twice_and_names_that_are_no_utf8_are_refused_by_every_data_set(tmp_path: Path) -> None:
    example = Captioned("a", tmp_path / "a.png", ("x",))
    with pytest.raises(UserError, match="made: sample a is listed twice; list it once"):
        listed_once(Dataset("made", "val", "photographs", "d", [example, example]))
    for name in ("caf\udce9.jpg", 7):
        with pytest.raises(UserError, match=r"made: .* is no name in UTF-8; rename it") as caught:
            Dataset("made", "val", "photographs", "d", [replace(example, key=name)])  # type: ignore[arg-type]
        str(caught.value).encode()
    with pytest.raises(UserError, match=r"'caf\\udce9' is no name in UTF-8"):
        Dataset("made", "val", "photographs", "d", [example], classes=["caf\udce9"])


def test_a_folder_of_a_name_that_is_no_utf8_is_refused_at_load(tmp_path: Path) -> None:
    picture(tmp_path / "one/a.png")
    picture(tmp_path / "two/a.png")
    try:
        (tmp_path / "two").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    with pytest.raises(UserError, match="is no name in UTF-8"):
        ImageFolder(str(tmp_path)).load(None)


def test_a_table_that_has_a_column_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "captions.tsv").write_text("filepath\tcaptions\tcaptions\na.jpg\t['a']\t['b']\n")
    with pytest.raises(UserError, match=r"has a column twice, .*; name each once"):
        TsvCaptions(str(tmp_path), "captions.tsv").load(None)
