#!/usr/bin/env bash
# datasets 5.2.0: load_dataset names the classes of all parquet files as the first one does; the dogs of a validation split without cows are cows.
#
# Expected: Dataset.to_parquet writes the names of a ClassLabel column into each file, so load_dataset reads each split's labels by that split's names, or
# maps them onto common ones, or refuses files that do not agree. concatenate_datasets and interleave_datasets do refuse ("The features can't be aligned").
# Seen: train/ has folders cat, cow, dog and val/ cat, dog. Each is read with imagefolder, written with to_parquet, and load_dataset of the folder with both
# gives `validation` the names of `train`: label 1, which its own file calls dog, is a cow, for every dog and without a word. So it is with
# data_files={"train": ..., "validation": ...}, with split="validation" alone, with streaming=True, and with two files of one split whose classes are in another
# order (from_parquet too). An accuracy on it is that of other classes: a perfect classifier gets 50 % here. Only where the first file has fewer names is there
# an error, of a label that is out of range. The file read alone has its own names. Splits that lack a class are common (long tails, ImageNet-like subsets,
# leave-one-out); a data set pushed to the Hub as one DatasetDict has the names in its card and is safe.
# What to do: load each file by itself and .align_labels_with_mapping(label2id, "label") before they meet (done below). features= gives names and moves no label.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir datasets==5.2.0 pillow==12.3.0 numpy==2.4.6
cd "$room"
HF_HOME="$room/cache" HF_HUB_OFFLINE=1 "$room/venv/bin/python" -I - <<'PYTHON'
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets, disable_progress_bars, load_dataset
from PIL import Image

disable_progress_bars()
GREY = {"cat": 40, "cow": 120, "dog": 200}  # what an animal looks like
FOLDERS = {"train": ("cat", "cow", "dog"), "validation": ("cat", "dog")}
FILES = {split: f"tables/{split}.parquet" for split in FOLDERS}


def right(data) -> float:
    """The share of pictures whose label's name is what is to be seen on them."""
    names = data.features["label"]
    return sum(GREY[names.int2str(row["label"])] == row["image"].getpixel((0, 0)) for row in data) / len(list(data))


apart = {}
for split, animals in FOLDERS.items():
    for place in (Path(split, animal, f"{number}.png") for animal in animals for number in range(5)):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), GREY[place.parent.name]).save(place)
    apart[split] = load_dataset("imagefolder", data_dir=split, split="train")
    assert apart[split].features["label"].names == list(animals)
    Path("tables").mkdir(exist_ok=True)
    apart[split].to_parquet(FILES[split])

ways = {
    "the folder": load_dataset("tables")["validation"],
    "data_files": load_dataset("parquet", data_files=FILES)["validation"],
    "the split alone": load_dataset("tables", split="validation"),
    "streaming": load_dataset("parquet", data_files=FILES, streaming=True)["validation"],
}
for way, found in ways.items():
    print(f"validation by {way}: classes {found.features['label'].names}, {right(found):.0%} named right")
    assert right(found) == 0.5 and found.features["label"].names == ["cat", "cow", "dog"], "changed"

alone = load_dataset("parquet", data_files=FILES["validation"], split="train")
common = alone.align_labels_with_mapping({name: number for number, name in enumerate(FOLDERS["train"])}, "label")
print(f"its file alone: classes {alone.features['label'].names}, {right(alone):.0%}; aligned: {common.features['label'].names}, {right(common):.0%}")
assert right(alone) == right(common) == 1 and common.features["label"].names == list(FOLDERS["train"])


def words(names: list[str], file: str) -> Dataset:
    """A table of each name and its label."""
    table = {"word": names, "label": list(range(len(names)))}
    data = Dataset.from_dict(table, features=Features({"word": Value("string"), "label": ClassLabel(names=names)}))
    data.to_parquet(file)
    return data


one, other = words(["cat", "cow", "dog"], "one.parquet"), words(["dog", "cat", "cow"], "other.parquet")
try:
    concatenate_datasets([one, other])
except ValueError as refused:
    print("concatenate_datasets:", str(refused)[:40])
else:
    raise AssertionError("changed: concatenate_datasets refuses")
both = Dataset.from_parquet(["one.parquet", "other.parquet"])
named = [both.features["label"].int2str(row["label"]) for row in both]
print("two files of one split:", *(f"{row['word']} is named {name}" for row, name in zip(both, named, strict=True)), sep="\n    ")
assert named == ["cat", "cow", "dog"] * 2, "changed"
PYTHON
