#!/usr/bin/env bash
# datasets 5.2.0: imagefolder puts the validation images of a class called "train" (CIFAR-100, VOC), or "bullet_train" (ImageNet), into the training split.
#
# Expected: load_dataset("imagefolder", data_dir=ROOT) of ROOT/train/CLASS/*.png and ROOT/val/CLASS/*.png makes the splits by the folders below ROOT and the
# labels by those below them; an image is in one split, once. torchvision's ImageFolder reads such a tree right.
# Seen: a word for a split counts at any depth, between whatever is no letter. Both splits are there, with the right names of classes, and no warning:
#     class          training images of it (10 were put there)   of these from val/   listed twice
#     train          20                                          10                   no
#     bullet_train   30                                          10                   its own 10
#     test_tube      10                                          0                    no; a third split "test" holds it alone, train and val together
# val, dev, train_railway (Places365) ... act likewise (dev puts training images into the validation split). On images of pure noise the nearest neighbour
# gets 100 % in the class "train". Of ROOT/val alone, given as data_dir, all classes but that one are gone. That a file called train.png hides the others is
# known (issue 7201 of datasets); of this no report was found.
# What to do: load_dataset("imagefolder", data_files={"train": "ROOT/train/**", "validation": "ROOT/val/**"}), which is right (done below), and count.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir datasets==5.2.0 pillow==12.3.0 numpy==2.4.6
cd "$room"
HF_HOME="$room/cache" HF_HUB_OFFLINE=1 "$room/venv/bin/python" -I - <<'PYTHON'
from pathlib import Path

import numpy as np
from datasets import DatasetDict, disable_progress_bars, load_dataset
from datasets import Image as Encoded
from PIL import Image

disable_progress_bars()
rng = np.random.default_rng(0)
OTHERS, COUNT = [f"class_{number}" for number in range(8)], 10


def tree(word: str) -> Path:
    """Ten images of noise for each of nine classes, one of them called ``word``, in train and in val."""
    root = Path(f"tree of {word}").absolute()
    for place in (root / split / name / f"{n}.png" for split in ("train", "val") for name in (*OTHERS, word) for n in range(COUNT)):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place)
    return root


def counts(data: DatasetDict, word: str) -> dict[str, tuple[int, int, int, int]]:
    """By split: images; of the class ``word``; of these from val/; how many are there twice."""
    found = {}
    for split, images in data.items():
        paths = [Path(image["path"]) for image in images.cast_column("image", Encoded(decode=False))["image"]]
        own = [path for path in paths if path.parent.name == word]
        found[split] = len(paths), len(own), sum(path.parts[-3] == "val" for path in own), len(own) - len(set(own))
    return found


def nearest(data: DatasetDict, word: str) -> tuple[float, float]:
    """How often the nearest training image of a validation image has its class, in the class ``word`` and in the others."""
    learnt, asked = (np.stack([np.asarray(image, float).ravel() for image in data[split]["image"]]) for split in ("train", "validation"))
    label, truth = (np.array(data[split]["label"]) for split in ("train", "validation"))
    hit = label[((asked[:, None] - learnt) ** 2).sum(-1).argmin(1)] == truth
    own = truth == data["train"].features["label"].names.index(word)
    return float(hit[own].mean()), float(hit[~own].mean())


RIGHT = {"train": (90, 10, 0, 0), "validation": (90, 10, 10, 0)}
SEEN = {
    "tram": RIGHT,
    "train": {**RIGHT, "train": (100, 20, 10, 0)},
    "bullet_train": {**RIGHT, "train": (110, 30, 10, 10)},
    "train_railway": {**RIGHT, "train": (110, 30, 10, 10)},
    "test_tube": {**RIGHT, "test": (20, 20, 10, 0)},
    "dev": {**RIGHT, "validation": (110, 30, 20, 10)},
}
for word, expected in SEEN.items():
    root = tree(word)
    data = load_dataset("imagefolder", data_dir=str(root))
    seen, (own, others) = counts(data, word), nearest(data, word)
    print(f"{word}: {seen}; nearest neighbour among noise: {own:.2f} in {word}, {others:.2f} in the others")
    assert seen == expected, f"changed: {expected} before"
    assert (own == 1) == ("train" in word) and others < 0.3
    patterns = {"train": str(root / "train/**"), "validation": str(root / "val/**")}
    assert counts(load_dataset("imagefolder", data_files=patterns), word) == RIGHT, "changed: data_files are no remedy"
alone = load_dataset("imagefolder", data_dir=str(Path("tree of train").absolute() / "val"))
print("tree of train/val alone:", {split: len(images) for split, images in alone.items()}, "of 90 images")
assert {split: len(images) for split, images in alone.items()} == {"train": 10}, "changed: the other classes are read"
PYTHON
