"""COCO's format as other tools write it: what has one meaning is read, the rest is refused at load, in a line that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from fna.data.coco import CocoCaptions
from fna.data.coco_masks import CocoInstances
from fna.data.label_values import IGNORE
from fna.data.segmentation import SegmentedDataset
from fna.errors import UserError

SQUARE = [1, 1, 4, 1, 4, 4, 1, 4]  # columns and rows 1 to 3
Edit = Callable[[dict[str, Any]], Any]


def content() -> dict[str, Any]:
    """Pictures 0 and 1 of 8 x 6 pixels, a cup in the first, nothing in the second; neither sizes, areas nor crowds are given."""
    return {
        "images": [{"id": 0, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}],
        "categories": [{"id": 0, "name": "cup"}, {"id": 7, "name": "table"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "segmentation": [SQUARE]}],
    }


def instances(root: Path, edit: Edit = lambda made: None, **options: Any) -> SegmentedDataset:
    """What is read of the edited file; pictures lie in ``root/pictures``."""
    made = content()
    edit(made)
    for name in ("a.png", "b.png"):
        (root / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / "pictures" / name)
    (root / "made.json").write_text(json.dumps(made))
    return CocoInstances(str(root), annotations="made.json", images="pictures", **options).load(None)


def maps(data: SegmentedDataset) -> list[list[list[int]]]:
    return [data.read_labels(example).tolist() for example in data.examples]


def test_what_is_not_given_is_counted_and_images_without_annotations_are_background(tmp_path: Path) -> None:
    data = instances(tmp_path)
    assert data.classes == ["background", "cup", "table"]
    first, second = (np.array(labels) for labels in maps(data))
    assert first.shape == second.shape == (6, 8)
    assert first.sum() == first[1:4, 1:4].sum() == 9
    assert not second.any()
    assert data.notes == []


def test_without_a_background_images_without_annotations_are_left_out_and_noted(tmp_path: Path) -> None:
    data = instances(tmp_path, background=False)
    assert data.classes == ["cup", "table"]
    assert [example.key for example in data.examples] == ["0"]
    assert set(np.unique(maps(data))) == {0, IGNORE}
    assert [note.split(":")[0] for note in data.notes] == ["1 image without annotations left out"]


def coded(compressed: bool) -> dict[str, Any]:
    mask = np.zeros((6, 8), np.uint8, order="F")
    mask[1:4, 1:4] = 1
    if compressed:
        return {"size": [6, 8], "counts": rle.encode(mask)["counts"].decode()}
    return {"size": [6, 8], "counts": [7, 3, 3, 3, 3, 3, 26]}


MEANS_THE_SAME: dict[str, Edit] = {
    "ids as names": lambda made: (
        [each.update(id=f"image {each['id']}") for each in made["images"]],
        [each.update(id=f"category {each['id']}") for each in made["categories"]],
        made["annotations"][0].update(image_id="image 0", id="x", category_id="category 0"),
    ),
    "ids as text and number": lambda made: made["annotations"][0].update(image_id="0", category_id="0"),
    "ids as decimals (pandas)": lambda made: made["annotations"][0].update(image_id=0.0, category_id=0.0),
    "no annotation id": lambda made: made["annotations"][0].pop("id"),
    "one polygon without its list (VIA)": lambda made: made["annotations"][0].update(segmentation=SQUARE),
    "polygon in decimals": lambda made: made["annotations"][0].update(segmentation=[[float(value) for value in SQUARE]]),
    "runs": lambda made: made["annotations"][0].update(segmentation=coded(False)),
    "compressed runs": lambda made: made["annotations"][0].update(segmentation=coded(True)),
    "null area and crowd": lambda made: made["annotations"][0].update(area=None, iscrowd=None),
    "crowd as false (LVIS readers)": lambda made: made["annotations"][0].update(iscrowd=False, area=9.0),
    "null size": lambda made: made["images"][0].update(width=None, height=None),
    "a size of 0": lambda made: made["images"][0].update(width=0, height=0),
    "a folder in the name (TACO)": lambda made: made["images"][0].update(file_name="pictures/a.png"),
    "a folder of another machine (Label Studio)": lambda made: made["images"][0].update(file_name="/data/upload/1/a.png"),
    "Windows": lambda made: made["images"][0].update(file_name="pictures\\a.png"),
    "an address (LVIS)": lambda made: (
        made["images"][0].pop("file_name"),
        made["images"][0].update(coco_url="http://images.example.org/val2017/a.png"),
    ),
    "an address with a query": lambda made: made["images"][0].update(file_name="https://x.example/pictures/a.png?token=1"),
    "a category twice": lambda made: made["categories"].append({"id": 0, "name": "cup", "supercategory": "thing"}),
    "the same instance twice": lambda made: made["annotations"].append(dict(made["annotations"][0])),
    "boxes that nobody reads": lambda made: made["annotations"][0].update(bbox="none"),
    "nothing beside": lambda made: made.update(info=None, licenses=[]),
}


@pytest.mark.parametrize("edit", MEANS_THE_SAME.values(), ids=MEANS_THE_SAME.keys())
def test_what_has_one_meaning_is_read(edit: Edit, tmp_path: Path) -> None:
    assert maps(instances(tmp_path, edit))[0] == maps(instances(tmp_path))[0]


def annotation(**fields: Any) -> Edit:
    return lambda made: made["annotations"][0].update(fields)


def image(**fields: Any) -> Edit:
    return lambda made: made["images"][0].update(fields)


def without(table: str, field: str) -> Edit:
    return lambda made: made[table][0].pop(field)


REFUSED: list[tuple[Edit, str]] = [
    (annotation(segmentation=[]), r"annotations\[0\]: has no polygon of three points, nor has any other"),
    (annotation(segmentation=None), r"annotations\[0\]: has no segmentation"),
    (annotation(segmentation="1,2,3"), r"annotations\[0\]: segmentation is '1,2,3'"),
    (annotation(segmentation=[[1, 1, 4, 4]]), r"annotations\[0\]: has no polygon of three points, nor"),
    (annotation(segmentation=[[*SQUARE, 1]]), r"annotations\[0\]: a polygon of 9 numbers"),
    (annotation(segmentation=[SQUARE, [1, 1, 2]]), r"annotations\[0\]: a polygon of 3 numbers"),
    (annotation(segmentation=[[1, 1, "4", 1, 4, 4]]), r"annotations\[0\]: segmentation holds"),
    (annotation(segmentation=[[1, 1, float("nan"), 1, 4, 4]]), r"annotations\[0\]: segmentation holds"),
    (annotation(segmentation=[[1, 1, 1e9, 1, 4, 4]]), r"annotations\[0\]: a polygon reaches from 1 to 1000000000.0, .* 8x6"),
    (annotation(segmentation=[SQUARE, {"counts": []}]), r"annotations\[0\]: segmentation holds"),
    (annotation(segmentation={"counts": [48]}), r"annotations\[0\]\.segmentation: size is None"),
    (annotation(segmentation={"size": [8, 6], "counts": [48]}), r"annotations\[0\]\.segmentation: size is \[8, 6\]"),
    (annotation(segmentation={"size": [6, 8], "counts": [7, 3]}), r"segmentation: counts cover 10 pixels of 48"),
    (annotation(segmentation={"size": [6, 8], "counts": [50, -2]}), r"segmentation: counts is \[50, -2\]"),
    (annotation(segmentation={"size": [6, 8], "counts": "73"}), r"segmentation: counts cover"),
    (annotation(segmentation={"size": [6, 8], "counts": "~~"}), r"segmentation: counts is '~~'"),
    (annotation(segmentation={"size": [6, 8]}), r"segmentation: counts is None"),
    (annotation(segmentation=[[0.1, 0.1, 0.2, 0.1, 0.2, 0.2]]), r"made\.json: none of 1 masks covers more than a pixel"),
    (annotation(segmentation=[[0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9]]), r"none of 1 masks covers more than a pixel; .*fractions"),
    (annotation(iscrowd="no"), r"annotations\[0\]: iscrowd is 'no'"),
    (annotation(iscrowd=2), r"annotations\[0\]: iscrowd is 2"),
    (annotation(area="9"), r"annotations\[0\]: area is '9'"),
    (annotation(area=[9]), r"annotations\[0\]: area is \[9\]"),
    (annotation(category_id=3), r"annotations\[0\]: category_id 3 is none of the categories"),
    (annotation(category_id=[0]), r"annotations\[0\]: category_id is \[0\]"),
    (annotation(category_id=True), r"annotations\[0\]: category_id is True"),
    (without("annotations", "category_id"), r"annotations\[0\]: category_id is missing; it holds id, image_id, segmentation"),
    (without("annotations", "image_id"), r"annotations\[0\]: image_id is missing"),
    (annotation(image_id={}), r"annotations\[0\]: image_id is \{\}"),
    (annotation(image_id=9), r"annotations\[0\]: image_id 9 is none of the images"),
    (without("images", "id"), r"images\[0\]: id is missing"),
    (without("images", "file_name"), r"images\[0\]: file_name is missing"),
    (image(file_name=""), r"images\[0\]: file_name is ''"),
    (image(file_name=["a.png"]), r"images\[0\]: file_name is \['a\.png'\]"),
    (image(file_name="c.png"), r"1 of the annotated files is not there, c\.png in .* first; give the folder"),
    (image(file_name="\ud800.png"), r"images\[0\]: file_name is '\\ud800\.png'"),
    (image(id=1.5), r"images\[0\]: id is 1\.5"),
    (image(id=None), r"images\[0\]: id is null"),
    (image(id=1), r"images\[1\]: id 1 is that of a\.png too"),
    (image(file_name="b.png"), r"images\[1\]: b\.png is listed twice, with id 0 and 1"),
    (image(file_name="./b.png"), r"images\[1\]: b\.png is listed twice"),
    (image(width=6, height=8), r"images\[0\]: 6x8, but .*a\.png is 8x6"),
    (image(width="8"), r"images\[0\]: width is '8'"),
    (image(height=-6), r"images\[0\]: height is -6"),
    (lambda made: made["categories"].append({"id": 0, "name": "plate"}), r"categories\[2\]: id 0 is that of cup too"),
    (without("categories", "name"), r"categories\[0\]: name is missing"),
    (lambda made: made["categories"][0].update(name=5), r"categories\[0\]: name is 5"),
    (lambda made: made["categories"][0].update(name=" "), r"categories\[0\]: name is ' '; a name is needed"),
    (lambda made: made["categories"].clear(), r"made\.json: holds no categories"),
    (lambda made: made.pop("categories"), r"not a COCO instances file \(it has no list of categories"),
    (lambda made: made.update(images={"0": "a.png"}), r"not a COCO instances file \(it has no list of images"),
    (lambda made: made["annotations"].append("cup"), r"annotations\[1\]: 'cup' is no entry"),
    (lambda made: made["images"].clear() or made["annotations"].clear(), r"made\.json: annotates no image"),
    (
        lambda made: made["categories"].extend({"id": number, "name": f"n{number}"} for number in range(100, 1303)),
        r"1206 classes; a label map holds 255 at most",
    ),
]


@pytest.mark.parametrize(("edit", "words"), REFUSED, ids=[words.replace("\\", "") for _, words in REFUSED])
def test_what_has_no_meaning_is_refused_at_load(edit: Edit, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        instances(tmp_path, edit)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_annotations_of_images_that_are_not_listed_are_noted(tmp_path: Path) -> None:
    data = instances(tmp_path, lambda made: made["annotations"].append({**made["annotations"][0], "image_id": 99}))
    assert data.notes == ["1 annotation of images that are not listed left out"]


@pytest.mark.parametrize("said", [{}, {"area": 0}, {"area": -1.0}])
def test_larger_is_painted_first_by_its_counted_area_and_crowds_are_ignored(said: dict[str, Any], tmp_path: Path) -> None:
    """Tools leave the area out, or write 0 where they do not know it."""

    def edit(made: dict[str, Any]) -> None:
        table = [0, 0, 6, 0, 6, 6, 0, 6]
        made["annotations"].append({"image_id": 0, "category_id": 7, "segmentation": [table], **said})
        made["annotations"].append({"image_id": 0, "category_id": 7, "iscrowd": 1, "segmentation": [[6, 0, 8, 0, 8, 6, 6, 6]]})

    labels = maps(instances(tmp_path, edit))[0]
    assert labels[0] == [2, 2, 2, 2, 2, 2, 255, 255]
    assert labels[2] == [2, 1, 1, 1, 2, 2, 255, 255]


def test_more_masks_than_a_byte_counts_are_read(tmp_path: Path) -> None:
    """pycocotools 2.0.11 holds the number of masks in a list in 8 bits."""
    assert maps(instances(tmp_path, lambda made: made["annotations"].extend(made["annotations"] * 299))) == maps(
        instances(tmp_path)
    )


def test_coco_itself_is_read_as_pycocotools_reads_it(shared_data: Path) -> None:
    data = CocoInstances(str(shared_data / "coco_mini")).load(None)
    coco = COCO(str(shared_data / "coco_mini/annotations/instances_val2017.json"))
    place = {category: 1 + place for place, category in enumerate(sorted(coco.getCatIds()))}
    assert len(data.examples) == len(coco.imgs) == 79
    for example in data.examples:
        image = coco.imgs[int(example.key)]
        expected = np.zeros((image["height"], image["width"]), np.int64)
        for entry in sorted(coco.imgToAnns[image["id"]], key=lambda each: (each["iscrowd"], each["area"]), reverse=True):
            expected[coco.annToMask(entry) == 1] = IGNORE if entry["iscrowd"] else place[entry["category_id"]]
        assert np.array_equal(data.read_labels(example), expected)


def test_a_picture_that_cannot_be_read_is_left_to_be_skipped(tmp_path: Path) -> None:
    instances(tmp_path)
    (tmp_path / "pictures/a.png").write_text("broken")
    data = CocoInstances(str(tmp_path), annotations="made.json", images="pictures").load(None)
    assert [example.key for example in data.examples] == ["0", "1"]


def test_the_training_split_cannot_be_the_split_itself(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.train=train2017: is no other split until \{split\} stands in"):
        instances(tmp_path, train="train2017")


def captioned(root: Path, edit: Edit) -> Any:
    made = content()
    made["annotations"] = [{"id": number, "image_id": number, "caption": f"caption {number}"} for number in (1, 0)]
    edit(made)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 6)).save(root / name)
    (root / "captions.json").write_text(json.dumps(made), encoding="utf-8-sig")
    return CocoCaptions(str(root), "captions.json", ".", "own").load(None)


CAPTIONS_READ: list[tuple[Edit, list[tuple[str, ...]]]] = [
    (lambda made: made.pop("categories"), [("caption 0",), ("caption 1",)]),
    (lambda made: [each.pop("id") for each in made["annotations"]], [("caption 0",), ("caption 1",)]),
    (annotation(image_id="0", id="x"), [("caption 0", "caption 1")]),
    (annotation(image_id=0), [("caption 0", "caption 1")]),
    (annotation(caption=" "), [("caption 0",)]),
    (annotation(image_id=5), [("caption 0",)]),
    (image(file_name="elsewhere/a.png"), [("caption 0",), ("caption 1",)]),
    (annotation(caption="caption 0"), [("caption 0",), ("caption 0",)]),
]


@pytest.mark.parametrize(("edit", "captions"), CAPTIONS_READ)
def test_captions_that_have_one_meaning_are_read(edit: Edit, captions: Any, tmp_path: Path) -> None:
    assert [example.captions for example in captioned(tmp_path, edit).examples] == captions


CAPTIONS_REFUSED: list[tuple[Edit, str]] = [
    (lambda made: made["images"].append(dict(made["images"][0])), r"images\[2\]: id 0 is that of a\.png too; list each image once"),
    (lambda made: made["images"].append({"id": 2, "file_name": "a.png"}), r"images\[2\]: a\.png is listed twice"),
    (annotation(caption=None), r"annotations\[0\]: caption is null"),
    (annotation(caption=["a"]), r"annotations\[0\]: caption is \['a'\]"),
    (annotation(caption=7), r"annotations\[0\]: caption is 7"),
    (annotation(caption="\udc80"), r"annotations\[0\]: caption is '\\udc80'"),
    (without("annotations", "caption"), r"annotations\[0\]: caption is missing; it holds id, image_id"),
    (annotation(id=[1]), r"annotations\[0\]: id is \[1\]"),
    (annotation(image_id=None), r"annotations\[0\]: image_id is null"),
    (image(file_name=3), r"images\[0\]: file_name is 3"),
    (image(file_name="c.png"), r"1 of the annotated files is not there, c\.png"),
    (lambda made: made.update(annotations={}), r"captions\.json: no COCO captions file \(it has no list of annotations"),
    (lambda made: made["images"].clear(), r"captions\.json: images is empty"),
    (lambda made: made["annotations"].clear(), r"captions\.json: holds no captioned image"),
]


@pytest.mark.parametrize(("edit", "words"), CAPTIONS_REFUSED, ids=[words.replace("\\", "") for _, words in CAPTIONS_REFUSED])
def test_captions_that_have_no_meaning_are_refused_at_load(edit: Edit, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        captioned(tmp_path, edit)
    assert "\n" not in str(caught.value)


def test_an_annotations_file_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    captioned(tmp_path, lambda made: None)
    with pytest.raises(UserError, match=r"other\.json: no such file; .*dataset\.annotations=PATH; there is captions\.json"):
        CocoCaptions(str(tmp_path), "other.json", ".", "own").check()


@pytest.mark.parametrize("name", ["data:image/png;base64," + "iVBORw0KGgo" * 400, "http://[fe80/a.png", "x" * 300 + ".png"])
def test_a_name_that_no_file_can_have_is_told_with_its_entry(name: str, tmp_path: Path) -> None:
    """Some tools put the picture itself there."""
    with pytest.raises(UserError, match=r"images\[1\]: file_name is .*; the name of a file is needed") as refused:
        instances(tmp_path, lambda made: made["images"][1].update(file_name=name))
    assert len(str(refused.value)) < 400


def squares(corner: float) -> Edit:
    """A square between 20 and ``corner`` in pictures 0.png and 1.png."""

    def edit(made: dict[str, Any]) -> None:
        square = [20, 20, corner, 20, corner, corner, 20, corner]
        made["annotations"] = [{"id": n, "image_id": n, "category_id": 7, "segmentation": [square]} for n in (0, 1)]
        made["images"] = [{"id": n, "file_name": f"{n}.png"} for n in (0, 1)]

    return edit


@pytest.mark.parametrize(("sides", "corner", "noted"), [(400, 95, True), (400, 130, False), (120, 95, False)])
def test_masks_that_all_lie_where_percents_would_are_noted(sides: int, corner: float, noted: bool, tmp_path: Path) -> None:
    """Of masks that reach further, or of pictures hardly larger than that, nothing is said."""
    (tmp_path / "pictures").mkdir()
    for number in (0, 1):
        Image.new("RGB", (sides, sides)).save(tmp_path / "pictures" / f"{number}.png")
    notes = instances(tmp_path, squares(corner)).notes
    said = "made.json: all 2 masks lie within 100 pixels of the upper left corner of larger images; are their coordinates percents"
    assert [note.startswith(said) for note in notes] == [True] * noted


@pytest.mark.parametrize("places", [(r"a\1.png", r"b\1.png"), ("a/1.png", "b/1.png")])
def test_names_divided_as_on_windows_are_folders_or_the_names_of_files(places: tuple[str, str], tmp_path: Path) -> None:
    """Archives of that system unpack to either here."""
    for place in places:
        (tmp_path / "pictures" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "pictures" / place)

    def edit(made: dict[str, Any]) -> None:
        made["images"] = [{"id": n, "file_name": name} for n, name in enumerate((r"a\1.png", r"b\1.png"))]

    assert [example.image for example in instances(tmp_path, edit).examples] == [tmp_path / "pictures" / place for place in places]
    for place in places:
        (tmp_path / "pictures" / place).unlink()
    Image.new("RGB", (8, 6)).save(tmp_path / "pictures" / "1.png")
    with pytest.raises(UserError, match=r"b\\1\.png and a\\1\.png both come to .*pictures/1\.png; give the images in the folders"):
        instances(tmp_path, edit)
