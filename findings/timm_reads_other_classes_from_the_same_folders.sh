#!/usr/bin/env bash
# timm 1.0.31, torchvision 0.29.2: of one folder of images timm and torchvision read other classes: other numbers, fewer classes, or one.
#
# Expected: timm.data.create_dataset("", root, split="train") and ImageFolder(root/train), which read the same kind of folder, agree on the label of an image.
# Seen, without a word from either; right: the share of images that a classifier without errors, of torchvision's numbers for train/, gets in timm's val/:
#     folders                                                            classes        right
#     ImageNet's names, or other words in small letters                  the same       100 %
#     1 to 102 (Flowers-102)                                             the same       11 %
#     0 to 999 (ImageNetV2)                                              the same       1 %
#     Faces, Leopards, accordion, ant ... (Caltech-101, Oxford pets)     the same       0 %
#     CLASS/images/*.JPEG (Tiny-ImageNet as it is downloaded)            12 and 1       8 %
#     one class of twelve in val/ without images, or with .webp alone    12 and 11      45 %
# torchvision sorts names as texts, takes the top folders for classes, and refuses an empty one. timm sorts by numbers and without regard to capitals, takes
# the innermost folder for the class, reads .png, .jpg and .jpeg alone, and numbers what it found in each split by itself. Where the orders differ, a checkpoint
# of timm's train.py scores near chance under torchvision's reader, and the other way round. On Tiny-ImageNet as downloaded timm's training reaches 100 % at
# once: all its images are of class 0, "images", in train/ and in val/. The docstring of an inner function names `leaf_name_only`; of the rest no page was found.
# What to do: class_map=FILE (names in the order of the head) for both splits, and compare len(reader.class_to_idx) with the head; flatten Tiny-ImageNet.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 torchvision==0.29.2 timm==1.0.31 pillow==12.3.0 numpy==2.4.6
cd "$room"
HF_HUB_OFFLINE=1 "$room/venv/bin/python" -I - <<'PYTHON'
from pathlib import Path

from PIL import Image
from timm.data import create_dataset
from torchvision.datasets import ImageFolder

Layout = dict[str, str]  # the folder and the suffix of each class's images, by class
TWELVE = [f"class_{letter}" for letter in "abcdefghijkl"]


def tree(name: str, train: Layout, val: Layout) -> Path:
    """Two images for each class in each split; a class without a suffix has a folder and no image."""
    root = Path(name).absolute()
    for split, layout in (("train", train), ("val", val)):
        for kind, suffix in layout.items():
            folder = root / split / kind
            folder.mkdir(parents=True)
            for number in range(2 if suffix else 0):
                Image.new("RGB", (8, 8)).save(folder / f"{number}{suffix}")
    return root


def labels(data: object, root: Path) -> dict[str, int]:
    """The label of each image, by its path below ``root``."""
    samples = data.samples if isinstance(data, ImageFolder) else data.reader.samples
    return {str(Path(path).relative_to(root)): label for path, label in samples}


def agreement(root: Path) -> tuple[int, int, float]:
    """Classes by torchvision in train, by timm in val; share of timm's val images whose label is torchvision's for that class in train."""
    theirs = ImageFolder(root / "train").class_to_idx
    data = create_dataset("", str(root), split="val")
    seen = labels(data, root / "val")
    right = [theirs[Path(path).parts[0]] == label for path, label in seen.items()]
    return len(theirs), len(data.reader.class_to_idx), sum(right) / len(right)


plain = dict.fromkeys(TWELVE, ".jpg")
numbers = {str(number): ".jpg" for number in range(1, 103)}
thousand = {str(number): ".jpg" for number in range(1000)}
capitals = dict.fromkeys(["Faces", "Leopards", "Motorbikes", "accordion", "airplanes", "anchor", "ant", "barrel", "bass", "beaver"], ".jpg")
inner = {f"n0{number}/images": ".JPEG" for number in range(1443537, 1443549)}
empty, other = {**plain, "class_f": ""}, {**plain, "class_f": ".webp"}
for name, train, val, expected in (
    ("words", plain, plain, (12, 12, 1.0)),
    ("numbers", numbers, numbers, (102, 102, 11 / 102)),
    ("thousand", thousand, thousand, (1000, 1000, 12 / 1000)),
    ("capitals", capitals, capitals, (10, 10, 0.0)),
    ("tiny", inner, inner, (12, 1, 1 / 12)),
    ("empty", plain, empty, (12, 11, 5 / 11)),
    ("webp", plain, other, (12, 11, 5 / 11)),
):
    seen = agreement(tree(name, train, val))
    print(f"{name}: {seen[0]} classes in torchvision, {seen[1]} in timm; right {seen[2]:.3f}")
    assert seen[:2] == expected[:2] and abs(seen[2] - expected[2]) < 1e-9, f"changed: {expected} before"

first = create_dataset("", "tiny", split="train")
print("Tiny-ImageNet's layout:", first.reader.class_to_idx)
assert set(labels(first, Path("tiny/train")).values()) == {0}, "changed: inner folders are no longer the classes"
assert len(ImageFolder("webp/val").classes) == 12
try:
    ImageFolder("empty/val")
except FileNotFoundError as error:
    print("torchvision:", str(error)[:80])
else:
    raise AssertionError("changed: torchvision reads a class without images")
Path("classes.txt").write_text("\n".join(sorted(numbers)), encoding="utf-8")
mapped = create_dataset("", "numbers", split="val", class_map=str(Path("classes.txt").absolute()))
assert mapped.reader.class_to_idx == ImageFolder("numbers/val").class_to_idx, "changed: class_map is no remedy"
PYTHON
