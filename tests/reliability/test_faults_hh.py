"""Large label maps, and folders of timm that say their own size: what a reader's cases showed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fna.data.coco_masks import CocoInstances
from fna.data.segmentation import IGNORE, LabelMaps
from fna.errors import UserError
from fna.metrics.boundary import band
from fna.models.timm import TimmModel
from fna.tasks import dense
from fna.tasks.dense import Inference
from fna.tasks.own import Own
from fna.tasks.source import Source


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that was made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(made, Tensor):
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return out


def shares(labels: np.ndarray, classes: int, side: int = 64) -> Tensor:
    """The shares of classes in patches of 16 pixels, of a picture of ``labels``' shape."""
    model: Any = SimpleNamespace(image_size=(side, side), tokens=SimpleNamespace(grid=(side // 16, side // 16)), name="m")
    data: Any = SimpleNamespace(classes=["c"] * classes, read_labels=lambda example: labels)
    source = Source(model, data, None, Inference(), SimpleNamespace(seed=0), Path())  # type: ignore[arg-type]
    return source._shares(SimpleNamespace(image="i.png", key="i"))  # type: ignore[arg-type]


def test_a_head_is_trained_on_large_maps_of_many_classes_in_the_room_of_the_map_itself() -> None:
    """24 megapixels of 100 classes took 19 GB, one number for each pixel and class, whatever the batch."""
    labels = np.random.default_rng(0).integers(0, 60, (500, 700))
    with Largest() as largest:
        shares(labels, 60)
    assert largest.bytes <= 8 * labels.size  # as int64, as torch indexes


def test_shares_of_classes_are_what_each_patch_holds() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (90, 130))
    labels[:20, :50] = IGNORE
    got = shares(labels, 5)
    planes = F.one_hot(torch.where(torch.from_numpy(labels) == IGNORE, 5, torch.from_numpy(labels)), 6)[..., :5]
    assert torch.equal(got, (F.adaptive_avg_pool2d(planes.permute(2, 0, 1).float(), (4, 4)) * 255).round().byte())


@pytest.mark.parametrize(("height", "width", "reach"), [(50, 70, 3), (5, 9, 8), (1, 40, 2)])
def test_the_band_is_where_a_square_holds_another_class_or_leaves_the_image(height: int, width: int, reach: int) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (height, width)).repeat(2, 0).repeat(2, 1)
    labels[0, 0] = IGNORE
    padded = F.pad(torch.from_numpy(labels.astype(np.float32))[None, None], (reach,) * 4, value=-1.0)
    largest, smallest = (F.max_pool2d(sign * padded, 2 * reach + 1, stride=1)[0, 0] * sign for sign in (1, -1))
    assert (band(labels, reach) == (largest != smallest).numpy()).all()


def test_scores_that_no_memory_holds_are_told_with_their_size_since_no_smaller_batch_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9696000000 bytes.")

    model: Any = SimpleNamespace(
        image_size=(16, 16), device="cpu", dtype=torch.float32, tokens=SimpleNamespace(grid=(1, 1)), name="m"
    )
    monkeypatch.setattr(dense, "normalised", lambda model, pixels: pixels)
    monkeypatch.setattr(Inference, "_view", lambda *args: torch.zeros(1, 101, 1, 1))
    pictures = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    monkeypatch.setattr(F, "interpolate", full)
    with pytest.raises(
        UserError, match=r"^out of memory for scores of 101 classes at an image's own 16 x 16 pixels .*; give smaller"
    ):
        next(Inference().scores(model, nn.Identity(), pictures))


@pytest.mark.parametrize("args", [{}, {"model_args": {"img_size": 160}}])
def test_a_folder_that_timm_saved_runs_at_the_size_that_it_says(args: dict[str, Any], tmp_path: Path) -> None:
    """`input_size` of the config.json beside a position table: mean and std were taken, the size not."""
    network = timm.create_model("vit_tiny_patch16_224", img_size=160, num_classes=3)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    own = {"input_size": [3, 160, 160], "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "num_classes": 3}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 3, "pretrained_cfg": own})
    )
    factory = TimmModel("vit_tiny_patch16_224", checkpoint=str(tmp_path))
    model = factory.build(image_size=None, device="cpu", dtype="float32", seed=0)
    assert model.image_size == (160, 160)
    assert not re.search("resampled", " ".join(model.notes))
    assert factory.build(image_size=224, device="cpu", dtype="float32", seed=0).image_size == (224, 224)


def instances(root: Path, crowds: int, masks: int = 20, images: str = "val2017") -> Path:
    """A COCO folder of one picture with so many masks of two categories in turns, of which the first so many are marked iscrowd."""
    (root / images).mkdir(parents=True)
    (root / "annotations").mkdir()
    Image.new("RGB", (64, 48)).save(root / images / "a.jpg")
    outline = [[4, 4, 30, 4, 30, 30, 4, 30]]
    told = [
        {
            "id": i,
            "image_id": 1,
            "category_id": i % 2,
            "segmentation": outline,
            "area": 676,
            "bbox": [4, 4, 26, 26],
            "iscrowd": i < crowds,
        }
        for i in range(masks)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [one | {"iscrowd": int(one["iscrowd"])} for one in told],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(("crowds", "said"), [(0, False), (1, False), (2, True), (20, True)])
def test_masks_that_are_ignored_as_crowds_are_counted_where_they_are_more_than_in_coco(
    crowds: int, said: bool, tmp_path: Path
) -> None:
    """Datumaro, CVAT's exporter, marks each mask that is no polygon iscrowd: a third of a set was left out without a word."""
    notes = " ".join(CocoInstances(str(instances(tmp_path, crowds))).load(None).notes)
    assert (f"{crowds} of 20 masks are marked iscrowd, whose pixels are ignored" in notes) == said
    assert ("all of cat, dog among them" in notes) == (crowds == 20)


def test_one_category_of_crowds_alone_is_told_however_many_masks_there_are(tmp_path: Path) -> None:
    file = instances(tmp_path, 0, masks=200) / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 2, "name": "lane"})
    for one in content["annotations"][:5]:
        one |= {"category_id": 2, "iscrowd": 1}
    file.write_text(json.dumps(content))
    assert "5 of 200 masks are marked iscrowd, whose pixels are ignored, all of lane among them" in " ".join(
        CocoInstances(str(tmp_path)).load(None).notes
    )


def test_a_folder_of_pictures_that_another_tool_named_is_given_as_a_remedy(tmp_path: Path) -> None:
    """CVAT writes images/SPLIT; the line named the missing folder alone."""
    root = instances(tmp_path, 0, images="images/val2017")
    with pytest.raises(UserError, match=r"give 'dataset.images=\"images/\{split\}\"'"):
        CocoInstances(str(root)).load(None)
    assert len(CocoInstances(str(root), images="images/{split}").load(None).examples) == 1


@pytest.mark.parametrize("ending", [".png", ".JPG"])
def test_pictures_of_another_suffix_than_the_patterns_are_told_with_the_pattern_that_takes_them(
    ending: str, tmp_path: Path
) -> None:
    for folder, suffix in (("images", ending), ("labels", ".png")):
        (tmp_path / folder / "val").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / folder / "val" / f"a{suffix}")
    given: dict[str, Any] = {"name": "mine", "root": str(tmp_path), "split": "val", "labels": "labels/{split}/{name}.png"}
    given["classes"] = ["ground", "sky"]
    with pytest.raises(UserError, match=r"there 1 picture end") as raised:
        LabelMaps(images="images/{split}/{name}.jpg", **given).load(None)
    pattern = re.search(r"'dataset\.images=\"(.*)\"'", str(raised.value))
    assert pattern is not None
    assert len(LabelMaps(images=pattern[1], **given).load(None).examples) == 1


def test_ade20k_as_mask2former_prepares_it_is_known_by_its_folders_name() -> None:
    """Where no pixel is unlabelled, values alone do not show that they are shifted; wall was dropped."""
    given: dict[str, Any] = {"name": "ade20k", "root": ".", "split": "v", "images": "images/{name}.jpg", "classes": "ade20k"}
    with pytest.raises(UserError, match=r"shifted down by one already; give 'dataset.ignored=\[255\]'"):
        LabelMaps(labels="annotations_detectron2/{split}/{name}.png", ignored=[0], **given).check()


@pytest.mark.parametrize("out", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 3)])
def test_scores_of_many_places_are_no_classes(out: Tensor) -> None:
    """Maps `[b, C, h, w]` were flattened to C h w classes without a word."""
    with pytest.raises(UserError, match=r"not one score a class: hand over"):
        Own([], lambda images: out, "top1")._scored(out, torch.tensor([0, 1]))
    assert Own([], lambda images: out, "top1")._scored(torch.eye(2)[..., None], torch.tensor([0, 1])).tolist() == [1, 1]


@pytest.mark.parametrize(
    "path", ["valid/_annotations.coco.json", "annotations/instances_default.json", "annotations/mine.json", "dev/labels.json"]
)
def test_annotations_where_another_tool_puts_them_are_told_with_the_options_that_read_them(path: str, tmp_path: Path) -> None:
    """Roboflow's, CVAT's and one's own: `not coco_instances, which has val2017` named no option."""
    root = instances(tmp_path, 0)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (root / "annotations" / "instances_val2017.json").rename(tmp_path / path)
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    with pytest.raises(UserError) as raised:
        CocoInstances(str(root)).check()
    told = dict(
        re.findall(r"dataset\.(split|annotations|images)=\"?([^\s'\"]+)", str(raised.value).partition(" give ")[2].rstrip("."))
    )
    data = CocoInstances(str(root), **told)
    pictures = root / data._in(data.images)
    pictures.mkdir(exist_ok=True)
    (root / "val2017" / "a.jpg").rename(pictures / "a.jpg")
    assert len(data.load(None).examples) == 1


def test_what_a_wrong_root_holds_is_told(tmp_path: Path) -> None:
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"it holds masks, photos: give another dataset.root or dataset.split"):
        CocoInstances(str(tmp_path)).check()
