"""Leftovers of earlier readers, each as a kind: what is interrupted, links that lead nowhere, masks and tables of captions as other
tools write them, pictures that say they are too large, names that begin alike."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import fna
from fna.data.coco import CocoCaptions
from fna.data.imagefolder import ImageFolder
from fna.data.label_values import read_values
from fna.data.pictures import open_image
from fna.data.segmentation import LabelMaps
from fna.data.tsv import TsvCaptions
from fna.errors import UserError
from fna.folders import check_cache
from fna.models.timm_names import check_name
from fna.ops.kernels import build
from fna.report.notes import caveats, explained

ROOT = Path(__file__).resolve().parents[2]


# 1: ^C


@pytest.mark.parametrize("command", ["fna.report", "fna.doctor", "fna.judge", "fna.metrics", "fna.models"])
def test_a_command_that_is_interrupted_while_it_is_imported_ends_in_a_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise KeyboardInterrupt\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    found = subprocess.run([sys.executable, "-m", command, "x"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 130
    assert found.stderr.startswith("interrupted: ")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("fna.report.__main__", "report"), ("fna.doctor", "machine_lines")])
def test_a_command_that_is_interrupted_at_its_work_ends_in_a_line(command: tuple[str, str], tmp_path: Path) -> None:
    module, busy = command
    code = (
        f"import sys, {module} as work\nfrom fna.interrupts import run\ndef stop(*_):\n    raise KeyboardInterrupt\n"
        f"work.{busy} = stop\nsys.argv[1:] = {['.'] * (busy == 'report')}\nrun('{module}')"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (130, "interrupted: the same command starts anew\n")


# 2: a cache whose disk is not mounted


def test_a_cache_that_is_a_link_to_nowhere_is_refused_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").symlink_to(tmp_path / "disk/cache")
    said = (
        r"fna's cache: .*cache is a link to .*disk/cache, which is not there .*make that folder, or give another .*FNA_CACHE=PATH"
    )
    for place in ("cache", "cache/below"):
        monkeypatch.setenv("FNA_CACHE", str(tmp_path / place))
        with pytest.raises(UserError, match=said):
            check_cache()
        with pytest.raises(build.NotBuilt, match=said):
            build.library()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "run.py"), "attn=fna"]
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith("error: fna's cache: ")
    assert found.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_cache_that_is_a_link_to_a_folder_and_one_that_is_yet_to_be_made_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    for place in ("cache", "cache/new", "new"):
        monkeypatch.setenv("FNA_CACHE", str(tmp_path / place))
        check_cache()


# 3: label maps as other tools write them


def maps(root: Path, label: Image.Image, **options: Any) -> LabelMaps:
    """One image of 8x6 with this label map, and the classes background and cat."""
    for folder in ("images/val", "labels/val"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (8, 6), (90, 120, 40)).save(root / "images/val/a.png")
    label.save(root / "labels/val/a.png")
    at = {"images": "images/{split}/{name}.png", "labels": "labels/{split}/{name}.png"}
    return LabelMaps("label_maps", str(root), "val", **at, **{"classes": ["background", "cat"], **options})


VALUES = np.array([[0, 1] * 4] * 5 + [[255] * 8], np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_that_was_saved_as_colours_is_read_as_its_one_channel(tmp_path: Path, mode: str) -> None:
    data = maps(tmp_path, Image.fromarray(VALUES).convert(mode)).load(None)
    assert np.array_equal(data.read_labels(data.examples[0]), VALUES)
    assert data.notes == [
        "1 of 1 label map looked at are grey saved as colours (first: a.png): R, G and B are the same everywhere and are read as "
        "one class value"
    ]


def test_grey_is_not_noted_and_colours_are_still_refused(tmp_path: Path) -> None:
    assert maps(tmp_path / "grey", Image.fromarray(VALUES)).load(None).notes == []
    coloured = Image.fromarray(VALUES).convert("RGB")
    coloured.putpixel((3, 3), (1, 1, 0))
    see_through = Image.fromarray(VALUES).convert("RGBA")
    see_through.putpixel((3, 3), (1, 1, 1, 0))
    for number, label in enumerate((coloured, see_through)):
        with pytest.raises(UserError, match=r"a label map holds class values, this is a colour image"):
            maps(tmp_path / str(number), label).load(None)


def test_masks_in_black_and_white_of_which_white_is_ignored_are_noted(tmp_path: Path) -> None:
    white = Image.fromarray(np.where(VALUES == 1, 255, 0).astype(np.uint8))
    (note,) = maps(tmp_path / "a", white).load(None).notes
    assert note.startswith(
        "the label maps looked at hold 0 and 255 alone, and 255 is ignored: if white is what was drawn, save it as 1"
    )
    absent = {"ignored": [], "absent": list(range(1, 255))}
    assert maps(tmp_path / "b", white, **absent).load(None).notes == []


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (
            (4, 3),
            r"4x3, but its image .* is 8x6; enlarge or reduce the label map to 8x6 with nearest neighbours, .*\(\(8, 6\), 0\)",
        ),
        ((16, 12), r"16x12, but .*, or give the image at 16x12"),
        ((8, 4), r"8x4, but .* do not show the same part of the scene: give the label map that was drawn on this image"),
        ((6, 8), r"6x8, but .*EXIF"),
    ],
)
def test_label_maps_of_another_size_are_told_what_to_do(tmp_path: Path, size: tuple[int, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        maps(tmp_path, Image.new("L", size)).load(None)


# 4: tables of captions


def captioned(root: Path, text: str, name: str = "said.csv") -> list[tuple[str, ...]]:
    for picture in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(root / picture)
    (root / name).write_text(text)
    return [example.captions for example in TsvCaptions(str(root), name).load(None).examples]


def test_open_clips_own_table_is_read_a_caption_a_line(tmp_path: Path) -> None:
    lines = ["filepath\ttitle", "a.jpg\tit's a cat, black", "b.jpg\t['s a bracket", 'a.jpg\t"a ""cat"""']
    assert captioned(tmp_path, "\n".join(lines)) == [("it's a cat, black", 'a "cat"'), ("['s a bracket",)]
    assert captioned(tmp_path, 'filepath,title\na.jpg,"a cat, black"\n') == [("a cat, black",)]


@pytest.mark.parametrize("heads", ["image,caption", "file_name,text", "file_name,caption"])
def test_tables_of_kaggle_and_of_hugging_faces_folders_are_read_as_they_are(heads: str, tmp_path: Path) -> None:
    """Flickr8k's captions.txt as Kaggle has it, and the metadata.csv beside a folder of images."""
    assert captioned(tmp_path, f'{heads}\na.jpg,"a cat, black"\na.jpg,a pet .\n') == [("a cat, black", "a pet .")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("filepath\tcaptions\na.jpg\ta cat\n", r"line 2: captions are no .* write \['a cat', .* name the column title"),
        ("picture\twords\na.jpg\ta cat\n", r"are needed: .*a\.jpg<tab>\['a cat', .*a\.jpg<tab>a cat below filepath<tab>title"),
        ("filepath\ttitle\na.jpg\t['a', 'b']\n", r"line 2: a list .* in a column of one caption.*; name the column captions"),
        ("filepath\ttitle\tcaptions\na.jpg\ta\t['a']\n", "has columns captions and title; keep the one that is meant"),
        ("filepath,title\na.jpg,a cat, black\n", "line 2: has more cells than columns; put a caption that holds"),
        ('filepath\ttitle\na.jpg\t"a cat\nb.jpg\ta dog\n', "a caption of several lines .* a quotation mark that opens it"),
        ('[{"image": "a.jpg", "caption": "a cat"}]', "JSON, no table; dataset=coco_captions reads"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_captions_is_told_with_an_example(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        captioned(tmp_path, text)


@pytest.mark.parametrize("text", ['[{"image": "a.jpg", "caption": "a cat"}]', '{"image": "a.jpg"}\n{"image": "b.jpg"}\n'])
def test_a_flat_list_of_captions_is_shown_the_form_that_is_needed(tmp_path: Path, text: str) -> None:
    (tmp_path / "captions.json").write_text(text)
    said = r'is no object with named lists\); \{"images": \[\{"id": 1, "file_name": .* "annotations": .* is needed; give another'
    with pytest.raises(UserError, match=said):
        CocoCaptions(str(tmp_path), "captions.json", ".", "val").load(None)


# 5, 6: pictures


def test_jpegs_by_their_other_names_are_read(tmp_path: Path) -> None:
    for name in ("cat/a.jfif", "cat/b.JPE", "dog/c.JFIF"):
        (tmp_path / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name, "JPEG")
    data = ImageFolder(str(tmp_path)).load(None)
    assert ([example.key for example in data.examples], data.notes) == (["cat/a.jfif", "cat/b.JPE", "dog/c.JFIF"], [])


def declared(path: Path, width: int, height: int) -> Path:
    """A BMP that says so of itself and holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (1, 1)).save(path, "BMP")
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<ii", width, height)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((30_000, 20_000), "declares 600,000,000 pixels, more than the 89,478,485 that are read of a picture; scale it down"),
        ((10_000, 10_000), "10000x10000: 100,000,000 pixels, more than the 89,478,485 that are read of a picture; scale it down"),
    ],
)  # fmt: skip
def test_a_picture_that_says_it_is_too_large_is_told_in_words_of_ours(tmp_path: Path, size: tuple[int, int], said: str) -> None:
    file = declared(tmp_path / "a.bmp", *size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=said) as refused:
            open_image(file)
    assert "decompression" not in str(refused.value)


def test_a_label_map_that_says_it_is_too_large_is_told_so_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.bmp: cannot be read as a label map \(declares 600,000,000 pixels, more than"):
        read_values(declared(tmp_path / "a.bmp", 30_000, 20_000))


# 7: what is meant by a name, and where a folder is


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("vit_tny", "vit_tiny_patch16_224"),
        ("vit_bse_patch16_224", "vit_base_patch16_224"),
        ("swin_tny", "swin_tiny_patch4_window7_224"),
        ("resnt50", "resnet50"),
    ],
)
def test_the_nearest_network_is_one_that_begins_alike(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"did you mean {meant}\?"):
        check_name(name)


def test_a_sampler_of_the_other_kind_is_told_what_it_gives() -> None:
    q = torch.randn(1, 2, 40, 8)
    with pytest.raises(
        UserError, match=r"KMeans, which gives groups of tokens \(attn=nystromformer takes it\): choose one that gives"
    ):
        fna.attention(q, q, q, "fna", landmarks=8, sampler="kmeans")


def test_the_folder_in_which_choices_are_kept_is_named_with_its_path() -> None:
    result = {"auto": {"busy": "others took 1.0 of 2 cores", "kept": "/data/outputs/auto"}}
    assert caveats(result) == [
        "auto timed its choices while others took 1.0 of 2 cores; empty the folder /data/outputs/auto to choose again"
    ]


# 8: one line of agreement


@pytest.mark.parametrize(("classes", "of"), [(5, "with the same class first"), (0, "with the same nearest other sample")])
def test_what_agreement_is_of_is_said_once(classes: int, of: str) -> None:
    torch.manual_seed(0)
    made = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": classes}
    model = timm.create_model("vit_tiny_patch16_224", **made).eval()
    found = fna.compare(model, [torch.randn(6, 3, 32, 32)], "fna", landmarks=8, rounds=0, bootstrap=100)
    said = [text for _, text in explained(found.result)] + list(found.result["notes"])
    (line,) = [text for text in said if text.startswith("agreement:")]
    assert line.startswith(f"agreement: share of samples {of} as with full attention, right or wrong")
