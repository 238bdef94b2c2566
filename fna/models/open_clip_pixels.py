"""What is done to pixels before open_clip's models: by its own transform, or by steps that it has no word for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from fna.models.hf_files import check_pixels, inner, preprocessing, read_json
from fna.models.hf_pixels import share, squashes
from fna.models.hf_pixels import transform as by_steps
from fna.models.open_clip_files import CONFIG

KEYS = ("mean", "std", "interpolation", "resize_mode")


def said_beside(folder: Path | None) -> dict[str, Any]:
    """What the preprocessor_config.json in a folder says, in open_clip's words, with ``crop_pct`` where a part is cut off."""
    said = _own(folder) | preprocessing(folder)
    if "resize" in said:
        said["resize_mode"] = "squash" if squashes(said) else "shortest"
        said["crop_pct"] = share(said)
    return {key: value for key, value in said.items() if key in (*KEYS, "crop_pct")}


def _own(folder: Path | None) -> dict[str, Any]:
    """preprocess_cfg of an open_clip_config.json."""
    if folder is None or not (folder / CONFIG).is_file():
        return {}
    found = inner(read_json(folder / CONFIG), "preprocess_cfg", folder / CONFIG)
    return check_pixels({key: value for key, value in found.items() if key in KEYS and value is not None}, folder / CONFIG)


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of pixels; later layers overrule earlier ones."""
    return {key: layer[key] for layer in layers for key in KEYS if layer.get(key) is not None}


def transform(config: Mapping[str, Any], size: tuple[int, int], crop_pct: float) -> Callable[[Image.Image], Tensor]:
    """A PIL image to ``[3, h, w]``: ``config`` is open_clip's, ``crop_pct`` what the centre crop keeps of the resized picture."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import InterpolationMode

    if crop_pct != 1:  # open_clip has no word for it
        sides = 1 / crop_pct
        return by_steps({**config, "resize": [sides] * 2 if config["resize_mode"] == "squash" else sides, "crop": 1.0}, size)
    made: Any = image_transform_v2(PreprocessCfg(**{**config, "interpolation": "bicubic"}), is_train=False)
    # open_clip knows bicubic and bilinear alone, and takes bicubic for images that are not square whatever is said
    made.transforms[0].interpolation = InterpolationMode(config["interpolation"])
    return made
