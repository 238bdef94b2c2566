"""Cases of a ninth pair of eyes, what of them failed of data: names that give other folders, 16-bit colour, accents."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from fna.data.asked_files import OwnQuestions, Pope
from fna.data.base import Dataset
from fna.data.coco import CocoCaptions
from fna.data.coco_masks import CocoInstances
from fna.data.imagefolder import ImageFolder
from fna.data.karpathy import KarpathyCaptions
from fna.data.oddities import image_notes
from fna.data.pictures import open_image
from fna.data.segmentation import LabelMaps
from fna.data.tsv import TsvCaptions
from fna.errors import UserError
from fna.tasks.classification import _head_index

# 1: a path that is not there becomes another question


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def captions(root: Path, *names: str, images: str = ".", file: str = "captions.json") -> CocoCaptions:
    listed = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    told = [{"image_id": number, "caption": f"picture {number}"} for number in range(len(names))]
    (root / file).write_text(json.dumps({"images": listed, "annotations": told}))
    return CocoCaptions(str(root), file, images, "val")


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ("train", "val"),
        ("train2017", "val2017"),
        ("/home/somebody/data/train/images", "valid/images"),
        ("C:\\data\\test", "images/validation"),
        ("https://example.org/coco/train", "val"),
        ("seg_train", "seg_test"),
        ("cat_train", "cat_val"),
        ("fold_1", "fold_2"),
    ],
)
def test_captions_of_one_split_are_not_asked_about_pictures_of_the_same_name_in_another(
    named: str, given: str, tmp_path: Path
) -> None:
    picture(tmp_path / given / "0.png")
    source = captions(tmp_path, named + ("\\" if "\\" in named else "/") + "0.png", images=given)
    with pytest.raises(UserError, match=r"captions\.json: images\[0\]: .*0\.png is not there, and .*0\.png is of another split"):
        source.load(None)


def test_nor_are_masks(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "0.png")
    mask = {"image_id": 0, "category_id": 0, "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]]}
    content = {"images": [{"id": 0, "file_name": "train/0.png"}], "categories": [{"id": 0, "name": "cup"}], "annotations": [mask]}
    (tmp_path / "made.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is of another split"):
        CocoInstances(str(tmp_path), annotations="made.json", images="val").load(None)


def test_questions_are_asked_about_the_files_in_the_folders_that_they_name(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "0.png")
    line = {"image": "train/0.png", "question": "What is it?", "answers": ["a cup"]}
    (tmp_path / "made.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"train/0\.png is not there, and .*val/0\.png is of another split"):
        OwnQuestions(str(tmp_path), "made.jsonl", "val").load(None)


@pytest.mark.parametrize("there", ["train/0.png", "val/train/0.png"])
def test_a_name_with_folders_means_the_file_in_them_whatever_else_is_called_so(there: str, tmp_path: Path) -> None:
    picture(tmp_path / "val" / "0.png")
    picture(tmp_path / there)
    data = captions(tmp_path, "train/0.png", images="val").load(None)
    assert data.examples[0].image == tmp_path / there
    assert not any("folder" in note for note in data.notes)


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("/data/upload/1/0.png", "pictures", "1 of 2 file names give another folder (upload/1)"),
        ("images/0.png", "pictures", "1 of 2 file names give another folder (images)"),
        ("train/images/0.png", "images", "1 of 2 file names give another folder (train/images)"),
        ("D:\\photos\\0.png", "pictures", "1 of 2 file names give another folder (D:/photos)"),
        ("train/0.png", "trainval", "1 of 2 file names give another folder (train)"),
        ("split1/0.png", "train", "1 of 2 file names give another folder (split1)"),
    ],
)
def test_folders_of_another_machine_are_counted_in_a_note(name: str, folder: str, said: str, tmp_path: Path) -> None:
    for each in ("0.png", "1.png"):
        picture(tmp_path / folder / each)
    (note,) = captions(tmp_path, name, "1.png", images=folder).load(None).notes
    assert note == f"{said} than the one they were found in by their last part ({folder}; first: {name})"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("0.png", "val"),
        ("images/0.png", "images"),
        ("/home/somebody/coco/val2017/0.png", "val2017"),
        ("https://example.org/val2017/0.png?size=1", "val2017"),
        ("images\\0.png", "val/images"),
    ],
)
def test_names_whose_folder_is_the_one_they_lie_in_need_no_word(name: str, folder: str, tmp_path: Path) -> None:
    picture(tmp_path / folder / "0.png")
    assert captions(tmp_path, name, images=folder).load(None).notes == []


def test_pictures_in_the_root_beside_the_folder_that_was_given_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "pictures").mkdir()
    (note,) = captions(tmp_path, "0.png", images="pictures").load(None).notes
    assert note == f"1 of 1 images lie in {tmp_path}, not in {tmp_path / 'pictures'} (first: 0.png)"


# 5: pictures that lose what they hold


def png16(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16 bits a channel: 2, 3 or 4 of them."""
    rows, columns, channels = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    head = struct.pack(">IIBBBBB", columns, rows, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def tiff16(path: Path, values: np.ndarray, planes: int = 1) -> Path:
    """A TIFF of 16 bits a channel, uncompressed; ``planes`` 2: with each channel for itself."""
    rows, columns, channels = values.shape
    strips = channels if planes == 2 else 1
    data = (np.moveaxis(values, -1, 0) if planes == 2 else values).astype("<u2").tobytes()
    tags = {256: [columns], 257: [rows], 258: [16] * channels, 259: [1], 262: [2], 273: [0] * strips, 277: [channels], 278: [rows]}
    tags |= {279: [len(data) // strips] * strips, 284: [planes]}
    behind = 8 + 2 + 12 * len(tags) + 4
    first = behind + sum(4 * len(value) for value in tags.values())
    tags[273] = [first + place * len(data) // strips for place in range(strips)]
    entries = rest = b""
    for tag, value in tags.items():
        long = struct.pack(f"<{len(value)}I", *value)
        at = long if len(value) == 1 else struct.pack("<I", behind + len(rest))
        rest += long if len(value) > 1 else b""
        entries += struct.pack("<HHI", tag, 4, len(value)) + at
    ifd = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes((b"II*\0" + struct.pack("<I", 8) + ifd + rest).ljust(first, b"\0") + data)
    return path


def ppm16(path: Path, values: np.ndarray, most: int = 65_535) -> Path:
    path.write_bytes(b"P6 %d %d %d\n" % (values.shape[1], values.shape[0], most) + values.astype(">u2").tobytes())
    return path


def ramp(highest: int, channels: int = 3) -> np.ndarray:
    """Values up to ``highest``, with an alpha channel that hides nothing where there are 4 (or 2) channels."""
    values = np.linspace(0, highest, 64 * 64 * channels).reshape(64, 64, channels).astype(np.uint16)
    values[..., channels - 1] = 65_535 if channels in (2, 4) else values[..., channels - 1]
    return values


@pytest.mark.parametrize(("bits", "times"), [(12, 16), (10, 64), (8, 256)])
@pytest.mark.parametrize("write", [png16, tiff16, ppm16])
def test_colour_that_uses_few_of_sixteen_bits_is_said_to_be_dark_with_what_to_do(
    write: Callable[..., Path], bits: int, times: int, tmp_path: Path
) -> None:
    paths = [write(tmp_path / f"{number}.{write.__name__[:-2]}", ramp(2**bits - 1)) for number in range(2)]
    (note,) = image_notes(paths)
    assert note.startswith(f"2 of 2 pictures looked at hold 16-bit colour that goes up to {2**bits - 1:,} of 65,535 (first: 0.")
    assert f"if the camera gave {bits} bits, save them as 16 (values times {times}) or scaled to 8" in note


@pytest.mark.parametrize(("channels", "kind"), [(2, "grey"), (4, "colour")])
def test_so_is_what_has_an_alpha_channel_which_is_no_colour(channels: int, kind: str, tmp_path: Path) -> None:
    (note,) = image_notes([png16(tmp_path / "a.png", ramp(4095, channels))])
    assert f"hold 16-bit {kind} that goes up to 4,095 of 65,535" in note


def test_colour_that_uses_its_sixteen_bits_a_format_that_declares_fewer_and_dark_pictures_of_eight_need_no_word(
    tmp_path: Path,
) -> None:
    Image.fromarray((ramp(4095) >> 8).astype(np.uint8)).save(tmp_path / "dark.png")
    whole = [
        png16(tmp_path / "a.png", ramp(65_535)),
        tiff16(tmp_path / "a.tiff", ramp(65_535)),
        ppm16(tmp_path / "a.ppm", ramp(65_535)),
    ]
    declared = ppm16(tmp_path / "b.ppm", ramp(4095), most=4095)
    assert image_notes([tmp_path / "dark.png", *whole, declared]) == []
    assert np.asarray(open_image(declared)).max() == 255


def test_a_tiff_that_pillow_misreads_is_not_read(tmp_path: Path) -> None:
    assert np.asarray(open_image(tiff16(tmp_path / "a.tiff", ramp(65_535)))).max() == 255
    with pytest.raises(ValueError, match="each channel for itself, which Pillow misreads; save it with interleaved channels"):
        open_image(tiff16(tmp_path / "b.tiff", ramp(65_535), planes=2))


# 10: names whose accents are written in two ways are the same name

NFC, NFD = normalize("NFC", "café_größe"), normalize("NFD", "café_größe")


def of_captions(root: Path, name: str) -> Dataset:
    return captions(root, name, f"../{root.name}/{name.replace('0', '1')}").load(None)


def of_tsv(root: Path, name: str) -> Dataset:
    (root / "made.tsv").write_text(f"filepath\tcaptions\n{name}\t['a cup']\n", encoding="utf-8")
    return TsvCaptions(str(root), "made.tsv").load(None)


def of_karpathy(root: Path, name: str) -> Dataset:
    entry = {"filename": name, "filepath": ".", "split": "test", "sentences": [{"raw": "a cup"}]}
    (root / "made.json").write_text(json.dumps({"images": [entry]}))
    return KarpathyCaptions(str(root), "made.json").load(None)


def of_questions(root: Path, name: str) -> Dataset:
    (root / "made.jsonl").write_text(json.dumps({"image": name, "question": "What is it?", "answers": ["a cup"]}))
    return OwnQuestions(str(root), "made.jsonl", ".").load(None)


def of_pope(root: Path, name: str) -> Dataset:
    (root / "made.jsonl").write_text(json.dumps({"question_id": 1, "image": name, "text": "Is there a cup?", "label": "no"}))
    return Pope(str(root), "made.jsonl", ".", sets=("random",)).load(None)


def of_label_maps(root: Path, name: str) -> Dataset:
    labels = root / "labels" / normalize("NFC", f"{name[:-4]}.png")
    labels.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8)).save(labels)
    (root / "listed.txt").write_text(name[:-4], encoding="utf-8")
    return LabelMaps("made", str(root), "val", "{name}.png", "labels/{name}.png", ["a", "b"], listing="listed.txt").load(None)


@pytest.mark.parametrize("read", [of_captions, of_tsv, of_karpathy, of_questions, of_pope, of_label_maps])
@pytest.mark.parametrize(("there", "named"), [(NFD, NFC), (NFC, NFD)], ids=["macOS", "elsewhere"])
def test_a_file_is_found_by_its_name_however_accents_are_written(
    read: Callable[[Path, str], Dataset], there: str, named: str, tmp_path: Path
) -> None:
    for number in range(2):
        picture(tmp_path / f"{there}_{number}.png")
    data = read(tmp_path, f"{named}_0.png")
    assert data.examples[0].image.name == f"{there}_0.png"
    assert data.examples[0].image.is_file()


def test_folders_are_found_so_too_and_what_may_be_two_files_is_none(tmp_path: Path) -> None:
    picture(tmp_path / NFD / "0.png")
    assert captions(tmp_path, f"{NFC}/0.png").load(None).notes == []
    for form in (normalize("NFD", "über_größe"), normalize("NFD", "über") + "_größe"):
        picture(tmp_path / f"{form}.png")
    with pytest.raises(UserError, match="1 of the annotated files is not there"):
        captions(tmp_path, "über_größe.png").load(None)


def test_a_list_of_classes_knows_folders_however_accents_are_written(tmp_path: Path) -> None:
    for name in (NFD, "tasse"):
        picture(tmp_path / "val" / name / "0.png")
    (tmp_path / "classes.tsv").write_text(f"{NFC}\tcoffee\ntasse\tcup\n", encoding="utf-8")
    data = ImageFolder(str(tmp_path), "val", classes=str(tmp_path / "classes.tsv")).load(None)
    assert [data.classes[example.label] for example in data.examples] == ["coffee", "cup"]
    assert data.notes == []


@pytest.mark.parametrize("known", [{"class_ids": ["tasse", NFC]}, {"class_ids": None, "classes": ["Tasse", NFC]}])
def test_so_does_the_head_of_a_model(known: dict[str, object], tmp_path: Path) -> None:
    for name in (NFD, "tasse"):
        picture(tmp_path / "val" / name / "0.png")
    data = ImageFolder(str(tmp_path), "val").load(None)
    if known["class_ids"] is None:
        data.class_ids = []
    model: Any = SimpleNamespace(name="made", **{"classes": None, **known})
    assert _head_index(model, data).tolist() == [1, 0]
