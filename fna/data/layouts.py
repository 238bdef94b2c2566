"""What published data sets look like on disk, to say which one a wrong root is."""

from __future__ import annotations

from pathlib import Path

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
}


def looks_like(root: Path) -> str | None:
    """The name of the published layout that ``root`` holds, None where it is none that fna knows."""
    return next((name for name, signs in SIGNS.items() if any((root / sign).exists() for sign in signs)), None)
