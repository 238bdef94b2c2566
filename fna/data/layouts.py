"""What data sets look like on disk: splits that are there, published layouts, to say which one a wrong root is."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, NoReturn

from fna.data.files import refuse_file
from fna.data.pictures import files_in, is_hidden, is_picture, packed_note
from fna.errors import UserError
from fna.values import counted

LOOKED_AT = 200  # folders, for a split that lies deeper than it should
TINY_LABELS = "val_annotations.txt"  # in Tiny-ImageNet's val folder, beside images/
# first match wins: the more particular first
SIGNS: dict[str, tuple[str, ...]] = {
    "ade20k": ("annotations/training", "annotations/validation"),
    "pascal_voc": ("JPEGImages", "SegmentationClass"),
    "cityscapes": ("gtFine", "leftImg8bit"),
    "camvid": ("trainannot", "valannot"),
    "coco_stuff": ("stuffthingmaps",),
    "coco_panoptic": ("annotations/panoptic_val2017.json",),
    "coco": ("annotations/instances_val2017.json", "annotations/captions_val2017.json"),
    "flickr30k": ("flickr30k-images", "dataset_flickr30k.json"),
    "imagenet": ("n01440764", "val/n01440764", "ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000001.JPEG"),
    "an image folder by synsets": ("n01443537", "val/n01443537"),
    "imagenet_v2": ("999", "val/999"),
    "tiny_imagenet": (f"val/{TINY_LABELS}", TINY_LABELS),
}
RECIPES = (  # what scripts/prepare.py makes
    *("ade20k", "pascal_voc", "cityscapes", "camvid", "coco_val2017", "coco_karpathy", "coco_stuff", "coco_panoptic", "flickr30k"),
    *("imagenet", "imagenet_train", "imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch"),
)
V2 = {str(number) for number in range(1000)}  # the class folders of ImageNet-V2
BY_CLASS = frozenset({"imagenet", "an image folder by synsets", "imagenet_v2", None})  # layouts that are a folder a class


def looks_like(root: Path) -> str | None:
    """The name of the published layout that ``root`` holds, None where it is none that fna knows."""
    return next((name for name, signs in SIGNS.items() if any((root / sign).exists() for sign in signs)), None)


def refuse_no_root(root: Path, name: str) -> NoReturn:
    """Raise `UserError` for a root that is no folder: how the data set ``name`` is got, where a recipe says so."""
    refuse_file(root)
    way = "give the place of the data with dataset.root=PATH"
    way = f"scripts/prepare.py {name} says how to get the data" if name in RECIPES else way
    raise UserError(f"dataset.root={root}: no such folder (looked from {Path.cwd()}); {way}.")


def check_split_name(split: str | None, knob: str = "dataset.split") -> None:
    """Raise `UserError` for the name of a split that would read the root itself, or what lies outside it."""
    path = PurePath(split or "")
    if split is not None and (not split.strip() or not path.parts or path.is_absolute() or ".." in path.parts):
        raise UserError(f"{knob}={split}: names no folder in the root; give the name of one.")


def to_learn_from(train: str | None, split: str) -> str | None:
    """``train`` where it is another split than the one asked about, else None: nobody is asked about what was learnt."""
    return None if train is None or PurePath(train) == PurePath(split) else train


def teaches(source: Any) -> bool:
    """Whether a data set's source has images to learn from beside those asked about; True of one that knows of no such thing."""
    if getattr(source, "bank", None) is not None or not hasattr(source, "train"):
        return True
    return to_learn_from(source.train, source.split or "") is not None


def nested(root: Path, name: str) -> Path | None:
    """The nearest folder of that name further below ``root``, as archives unpack (ILSVRC/Data/CLS-LOC/val); None where the first
    `LOOKED_AT` folders hold none."""
    waiting = deque([root])
    for _ in range(LOOKED_AT):
        if not waiting:
            return None
        folder = waiting.popleft()
        with suppress(OSError):  # what cannot be looked into is no place to name
            if folder != root and (folder / name).is_dir():
                return folder / name
            waiting += sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())
    return None


def packed_below(root: Path) -> str:
    """What to say of archives in ``root`` or the folders in it that were not unpacked; empty where there is none."""
    found: list[Path] = []
    with suppress(OSError):
        found = [path for place in (root, *sorted(root.glob("*/"))) for path in files_in(place)]
    return "".join(f"; {note}" for note in packed_note(found))


def _above(folder: Path, split: str) -> Path:
    return folder.parents[len(PurePath(split).parts) - 1]


def split_folder(root: Path, split: str | None, knob: str = "dataset.split") -> Path:
    """``root/split``, or ``root`` for None. Raises `UserError` where it is not there: what is there instead."""
    check_split_name(split, knob)
    if not root.is_dir():
        refuse_no_root(root, "")
    if split is None or (root / split).is_dir():
        return root if split is None else root / split
    there = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    if not there:
        flat = sum(map(is_picture, files_in(root)))
        way = "give dataset.root=PATH"
        if flat:
            way = (
                f"{counted(flat, 'picture')} lie flat in it: put each class into a folder, or give dataset=images, which needs none"
            )
        raise UserError(f"{knob}={split}: {root} holds no such folder, nor another{packed_below(root)}; {way}.")
    shown = ", ".join(there[:4]) + (f", ... ({len(there)} in all)" if len(there) > 4 else "")
    flat = any(is_picture(path) for path in (root / there[0]).iterdir())
    if knob == "dataset.split" and (inner := nested(root, split)):
        raise UserError(
            f"{knob}={split}: no such folder in {root}, but {inner} is there: give dataset.root={_above(inner, split)}."
        )
    way = "if these are the classes, give dataset.split=null" if flat else f"give one with {knob}=NAME"
    if knob == "dataset.train":
        way = "give one with dataset.train=NAME, or dataset.bank=4 alone: the first 4 images of each class, to learn from"
    other = looks_like(root)
    guess = f" (it looks like {other})" if other else ""
    raise UserError(f"{knob}={split}: no such folder in {root}; there is {shown}{guess}{packed_below(root)}: {way}.")
