"""Readers of label maps, each on a tree drawn in the published layout."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from pycocotools import mask as rle

from fna.configs import instantiate as configured
from fna.configs import load_option
from fna.data.label_values import lookup, read_values
from fna.data.segmentation import CLASS_FILES, class_names
from fna.errors import UserError

SHAPE = (6, 8)


def source(name: str, root: Path, **changes: Any) -> Any:
    node = load_option("dataset", name)
    node.pop("defaults", None)
    return instantiate(node, root=str(root), _convert_="all", **changes)


def draw(image: Path, labels: Path, values: Any, palette: bool = False) -> None:
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SHAPE, 3), 90, np.uint8)).save(image)
    picture = Image.fromarray(np.resize(np.asarray(values, np.uint8), SHAPE))
    if palette:
        picture = picture.convert("P") if picture.mode != "P" else picture
        picture.putpalette([component for value in range(256) for component in (value, 255 - value, 7)])
    picture.save(labels)


def only(dataset: Any) -> list[int]:
    """The classes in the first label map, in the order drawn."""
    labels = dataset.read_labels(dataset.examples[0])
    assert labels.shape == SHAPE
    assert labels.dtype == np.int64
    return labels.reshape(-1).tolist()


def test_ade20k_shifts_by_one_and_ignores_zero(tmp_path: Path) -> None:
    draw(
        tmp_path / "images/validation/ADE_val_00000001.jpg",
        tmp_path / "annotations/validation/ADE_val_00000001.png",
        [0, 1, 2, 150],
    )
    data = source("ade20k", tmp_path).load(None)
    assert only(data)[:4] == [255, 0, 1, 149]
    assert data.classes[0] == "wall"
    assert data.classes[149] == "flag"


def test_coco_stuff_closes_its_gaps(tmp_path: Path) -> None:
    values = [0, 10, 12, 24, 26, 64, 66, 69, 71, 83, 89, 91, 181, 255]
    draw(tmp_path / "val2017/000000000139.jpg", tmp_path / "stuffthingmaps/val2017/000000000139.png", values)
    assert only(source("coco_stuff", tmp_path).load(None))[:14] == [0, 10, 11, 23, 24, 59, 60, 61, 62, 73, 79, 80, 170, 255]
    draw(tmp_path / "val2017/000000000139.jpg", tmp_path / "stuffthingmaps/val2017/000000000139.png", [11])
    with pytest.raises(UserError, match=r"000000000139\.png: label value 11, which no class of coco_stuff has"):
        only(source("coco_stuff", tmp_path).load(None))


def test_cityscapes_maps_ids_in_nested_folders(tmp_path: Path) -> None:
    frame = "frankfurt/frankfurt_000000_000294"
    values = [7, 8, 11, 12, 13, 17, 19, 28, 31, 33, 0, 9, 18, 30, 255]
    draw(tmp_path / f"leftImg8bit/val/{frame}_leftImg8bit.png", tmp_path / f"gtFine/val/{frame}_gtFine_labelIds.png", values)
    data = source("cityscapes", tmp_path).load(None)
    assert data.examples[0].key == frame
    assert only(data)[:15] == [0, 1, 2, 3, 4, 5, 6, 15, 16, 18, 255, 255, 255, 255, 255]


def test_pascal_voc_reads_palette_indices_of_the_listed_images(tmp_path: Path) -> None:
    for name in ("2007_000033", "2007_000042", "2007_000061"):
        draw(tmp_path / f"JPEGImages/{name}.jpg", tmp_path / f"SegmentationClass/{name}.png", [0, 1, 20, 255], palette=True)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_000061\n2007_000033\n")
    data = source("pascal_voc", tmp_path).load(None)
    assert [example.key for example in data.examples] == ["2007_000061", "2007_000033"]
    assert only(data)[:4] == [0, 1, 20, 255]
    without_background = source("pascal_voc", tmp_path, ignored=[0, 255], classes=class_names("pascal_voc")[1:]).load(None)
    assert only(without_background)[:4] == [255, 0, 19, 255]


def test_camvid_ignores_void_and_knows_its_training_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        draw(tmp_path / split / "0016E5_07959.png", tmp_path / f"{split}annot/0016E5_07959.png", [0, 10, 11])
    data = source("camvid", tmp_path).load(None)
    assert only(data)[:3] == [0, 10, 255]
    assert data.training is not None
    assert data.training().split == "train"
    assert data.training().training is None


def coco(tmp_path: Path) -> Path:
    """An instances file: a table (large), a cup on it, and a crowd."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "val2017/000000000139.jpg")

    def entry(number: int, category: int, crowd: int, box: tuple[slice, slice]) -> dict[str, Any]:
        mask = np.zeros(SHAPE, np.uint8, order="F")
        mask[box] = 1
        code = rle.encode(mask)
        area = int(mask.sum())
        return {"id": number, "image_id": 139, "category_id": category, "iscrowd": crowd, "area": area} | {
            "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            "bbox": [0, 0, 1, 1],
        }

    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 6, "width": 8}],
        "categories": [{"id": 67, "name": "dining table"}, {"id": 47, "name": "cup"}, {"id": 1, "name": "person"}],
        "annotations": [
            entry(1, 47, 0, np.s_[1:3, 1:3]),
            entry(2, 67, 0, np.s_[0:4, 0:4]),
            entry(3, 1, 1, np.s_[0:6, 6:8]),
        ],
    }
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return tmp_path


def test_coco_instances_paint_small_over_large_and_ignore_crowds(tmp_path: Path) -> None:
    data = source("coco_instances", coco(tmp_path)).load(None)
    assert data.classes == ["background", "person", "cup", "dining table"]
    labels = np.array(only(data)).reshape(SHAPE)
    assert labels[0].tolist() == [3, 3, 3, 3, 0, 0, 255, 255]
    assert labels[1].tolist() == [3, 2, 2, 3, 0, 0, 255, 255]
    bare = source("coco_instances", tmp_path, background=False).load(None)
    assert set(only(bare)) == {255, 1, 2}
    assert bare.digest != data.digest


def test_coco_panoptic_reads_segment_numbers_from_colours(tmp_path: Path) -> None:
    root = coco(tmp_path)
    numbers = np.zeros(SHAPE, np.int64)
    numbers[:2], numbers[2:4] = 70_000, 300
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)
    (root / "annotations/panoptic_val2017").mkdir()
    Image.fromarray(colours).save(root / "annotations/panoptic_val2017/000000000139.png")
    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg"}],
        "categories": [{"id": 200, "name": "rug"}, {"id": 1, "name": "person"}],
        "annotations": [{"image_id": 139, "file_name": "000000000139.png", "segments_info": [
            {"id": 70_000, "category_id": 200}, {"id": 300, "category_id": 1}]}],
    }  # fmt: skip
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    labels = np.array(only(source("coco_panoptic", root).load(None))).reshape(SHAPE)
    assert labels[:, 0].tolist() == [1, 1, 0, 0, 255, 255]


def panoptic(tmp_path: Path, **changes: Any) -> Any:
    """One image of two segments, with an entry's fields changed."""
    root = coco(tmp_path)
    (root / "annotations/panoptic_val2017").mkdir()
    Image.fromarray(np.full((*SHAPE, 3), [7, 0, 0], np.uint8)).save(root / "annotations/panoptic_val2017/000000000139.png")
    entry = {"image_id": 139, "file_name": "000000000139.png", "segments_info": [{"id": 7, "category_id": 1}], **changes}
    images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (139, 140)]
    content = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": [entry]}
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    return source("coco_panoptic", root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"segments_info": None}, r"annotations\[0\]: segments_info is null"),
        ({"segments_info": [{"id": "x", "category_id": 1}]}, r"annotations\[0\]\.segments_info\[0\]: id is 'x'"),
        ({"segments_info": [{"id": 7}]}, r"segments_info\[0\]: category_id is missing"),
        ({"segments_info": [{"id": 7, "category_id": 2}]}, r"segments_info\[0\]: category_id 2 is none of the categories"),
        ({"segments_info": [{"id": 7, "category_id": 1, "iscrowd": "0"}]}, r"segments_info\[0\]: iscrowd is '0'"),
        ({"file_name": 139}, r"annotations\[0\]: file_name is 139"),
        ({"file_name": "x.png"}, r"x\.png is missing"),
        ({"image_id": [139]}, r"annotations\[0\]: image_id is \[139\]"),
    ],
)
def test_panoptic_entries_that_cannot_be_read_are_refused_at_load(changes: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        panoptic(tmp_path, **changes).load(None)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: data[:40] + b"????" + data[44:], lambda data: b"", lambda data: b"GIF"]
)
def test_a_damaged_panoptic_png_is_refused_at_load_in_one_line(damage: Any, tmp_path: Path) -> None:
    data = panoptic(tmp_path)
    png = tmp_path / "annotations/panoptic_val2017/000000000139.png"
    png.write_bytes(damage(png.read_bytes()))
    with pytest.raises(UserError, match=r"000000000139\.png: damaged") as caught:
        data.load(None)
    assert "\n" not in str(caught.value)


def test_a_panoptic_png_of_another_size_is_refused_and_images_without_one_are_noted(tmp_path: Path) -> None:
    data = panoptic(tmp_path)
    assert data.load(None).notes == ["1 image without annotations left out"]
    Image.new("RGB", (3, 3)).save(tmp_path / "annotations/panoptic_val2017/000000000139.png")
    with pytest.raises(UserError, match=r"139\.png: 3x3, which its image .* is not"):
        data.load(None)


@pytest.mark.parametrize(
    ("name", "count"), [("ade20k", 150), ("coco_stuff", 171), ("pascal_voc", 21), ("cityscapes", 19), ("camvid", 11)]
)
def test_lists_of_names_are_whole(name: str, count: int) -> None:
    assert (CLASS_FILES / f"{name}.txt").is_file()
    assert len(class_names(name)) == count
    assert all(class_names(name))


def test_lookup_by_its_rule() -> None:
    assert lookup(3, ignored=[0], absent=[2])[:6].tolist() == [255, 0, -1, 1, 2, -1]


def test_the_root_of_another_data_set_is_named(tmp_path: Path) -> None:
    for folder in ("trainannot", "valannot", "val"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=r"not ade20k, which has images/validation; it looks like camvid") as caught:
        source("ade20k", tmp_path).check()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"no such folder \(looked from .*\); scripts/prepare\.py ade20k"):
        source("ade20k", tmp_path / "nowhere").check()


def test_colour_labels_and_missing_label_files_are_refused(tmp_path: Path) -> None:
    draw(tmp_path / "val/a.png", tmp_path / "valannot/a.png", [0])
    Image.new("RGB", (8, 6), (0, 1, 0)).save(tmp_path / "valannot/a.png")
    with pytest.raises(UserError, match="colour image"):
        only(source("camvid", tmp_path).load(None))
    (tmp_path / "valannot/a.png").unlink()
    with pytest.raises(UserError, match=r"1 file of split val is missing, the first is .*a\.png"):
        source("camvid", tmp_path).load(None)


@pytest.mark.parametrize("images", ["pictures", "{name}/{kind}.png", "{name}/{name}.png", "{}.png", "{split}.png", "{name}}.png"])
def test_a_pattern_of_files_with_another_brace_is_refused_when_it_is_made(images: str, tmp_path: Path) -> None:
    node = load_option("dataset", "camvid")
    node.pop("defaults", None)
    with pytest.raises(UserError, match=r"dataset\.images=.*: give a path with \{name\} once"):
        configured(OmegaConf.merge(node, {"root": str(tmp_path), "images": images}))


def test_a_listing_that_is_no_utf8_or_names_an_image_twice_is_refused_at_load(tmp_path: Path) -> None:
    draw(tmp_path / "JPEGImages/a.jpg", tmp_path / "SegmentationClass/a.png", [0])
    listing = tmp_path / "ImageSets/Segmentation/val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"val\.txt: cannot be read as text in UTF-8"):
        source("pascal_voc", tmp_path).load(None)
    listing.write_text("a\na\n")
    with pytest.raises(UserError, match=r"val\.txt: a is listed twice; list each image once"):
        source("pascal_voc", tmp_path).load(None)


@pytest.mark.parametrize(("bits", "right"), [(1, True), (2, False), (4, False), (8, True)])
def test_grey_of_few_bits_that_pillow_would_stretch_is_no_label_map(tmp_path: Path, bits: int, right: bool) -> None:
    """Pillow 12.3 makes 17 of class 1 of 16: with 150 classes that is one of them."""

    def chunk(kind: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))

    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\1")) + chunk(b"IEND", b""))
    if right:
        assert read_values(file)[0].tolist() == [0] * (8 // bits - 1) + [1]
    else:
        with pytest.raises(UserError, match=rf"a\.png: grey of {bits} bits, which Pillow stretches to 8.*save it with 8 bits"):
            read_values(file)


@pytest.mark.parametrize(("most", "right"), [(255, True), (65535, True), (20, False), (1000, False)])
def test_a_pgm_that_pillow_would_stretch_is_no_label_map(tmp_path: Path, most: int, right: bool) -> None:
    """Pillow 12.3 stretches a PGM to 255 or 65535 unless its maximum is that: class 1 of 20 would become class 13."""
    stored = np.arange(6).reshape(2, 3)
    file = tmp_path / "a.pgm"
    file.write_bytes(f"P5 3 2 {most}\n".encode() + stored.astype(">u2" if most > 255 else "u1").tobytes())
    if right:
        assert read_values(file).tolist() == stored.tolist()
    else:
        with pytest.raises(UserError, match=rf"a\.pgm: a PGM with values up to {most}.*save it as PNG"):
            read_values(file)
