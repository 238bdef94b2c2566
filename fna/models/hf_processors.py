"""Image processors of transformers by their class: what it takes for settings that are left out, and what else its code does.

The settings of a processor do not tell all of it: some classes round sizes, pad, cut tiles or swap colours whatever is said. So a
folder's own processor is run on one picture, and fna's steps have to come to the same pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fna.errors import UserError
from fna.models.hf_pixels import squashes, transform
from fna.models.weights import first_line
from fna.values import shown

SQUASHED = 384  # from this size on ConvNeXt's processor crops nothing
BILINEAR = 2  # what transformers takes where no resampling is said
ROWS, COLUMNS = 53, 91  # of the picture that is tried: odd, and neither square nor a multiple of a patch
NEAR = 0.01  # of the range of pixels: two libraries that resize the same way round by less
SERVICE = ("image_processor_type", "feature_extractor_type", "processor_class", "data_format", "input_data_format", "device")
UNTOLD = ("do_convert_rgb", "return_tensors", "disable_grouping", "default_to_square", "num_channels")  # change no pixels here


def filled(said: dict[str, Any], file: Path) -> dict[str, Any]:
    """With what transformers' processor of that name takes for what is left out, ``size`` spelt out; as it is without a name."""
    processor = _made(said, file)
    if processor is None:
        return said
    try:
        made = {"do_normalize": False, "do_center_crop": False, "resample": BILINEAR, **processor.to_dict()}
        made |= _enlarged(type(processor).__name__, made)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise _not_taken(type(processor).__name__, file, error) from error
    return {key: list(value) if isinstance(value, tuple) else value for key, value in made.items()}


def check_processor(said: dict[str, Any], steps: Mapping[str, Any], known: tuple[str, ...], file: Path) -> None:
    """Raise `UserError` where the processor of that name makes other pixels of a picture than ``steps``; without a name none is.

    ``known``: the settings that ``steps`` follow, so that what else is said can be named.
    """
    processor = _made(said, file)
    if processor is None:
        return
    name = type(processor).__name__
    try:
        theirs = _one(processor(_picture(), return_tensors="pt"))
    except Exception as error:  # each has its own way to miss a package or a text
        raise UserError(
            f"{file}: {name} cannot prepare a picture ({first_line(error)}); drop the file and give mean and std."
        ) from error
    if theirs is None or _apart(theirs, steps) > NEAR:
        more = {key: value for key, value in processor.to_dict().items() if value and key not in (*known, *SERVICE, *UNTOLD)}
        told = ", ".join(f"{key}={shown(value)}" for key, value in more.items() if isinstance(value, int | float | str))
        raise UserError(
            f"{file}: {name} does more to a picture than resize, crop and normalise{f' ({told})' if told else ''}, which fna does "
            "not follow; drop the file and give mean and std."
        )


def _made(said: Mapping[str, Any], file: Path) -> Any:
    """The processor that the settings name, made of them; None where transformers has none of that name."""
    import transformers

    name = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    known = getattr(transformers, name, None) if name.endswith("ImageProcessor") else None
    if known is None:
        return None
    try:
        return known(**{key: value for key, value in said.items() if key not in SERVICE and value is not None})
    except (TypeError, ValueError, KeyError) as error:
        raise _not_taken(name, file, error) from error


def _not_taken(name: str, file: Path, error: Exception) -> UserError:
    return UserError(f"{file}: {name} does not take it ({first_line(error)}); mend the file or drop it.")


def _enlarged(name: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """The size that pictures are resized to and the crop, where the class of that name takes another than ``size`` in its code.

    LeViT's enlarges the shorter side; ConvNeXt's, which CvT has too, from 384 pixels on squashes, below them crops ``crop_pct``.
    """
    edge = (made.get("size") or {}).get("shortest_edge")
    if edge is None or name not in ("LevitImageProcessor", "ConvNextImageProcessor"):
        return {}
    if name == "LevitImageProcessor":
        return {"size": {"shortest_edge": int(edge * 256 / 224)}}
    square = {"height": edge, "width": edge}
    if edge >= SQUASHED:
        return {"size": square, "do_center_crop": False}
    return {"size": {"shortest_edge": int(edge / made["crop_pct"])}, "do_center_crop": True, "crop_size": square}


@cache
def _picture() -> Image.Image:
    """Smooth colours, the same everywhere."""
    coarse = np.random.default_rng(0).integers(0, 256, (ROWS // 8, COLUMNS // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((COLUMNS, ROWS), Image.Resampling.BICUBIC)


def _one(made: Any) -> Tensor | None:
    """The one picture ``[3, h, w]`` that a processor made, whatever it calls it; None where it made several, or something else."""
    for found in [made] if isinstance(made, Tensor) else [value for value in made.values() if isinstance(value, Tensor)]:
        while found.dim() > 3 and len(found) == 1:  # of one picture, of a video of one
            found = found[0]
        if found.dim() == 3 and len(found) == 3:
            return found
    return None


def _apart(theirs: Tensor, steps: Mapping[str, Any]) -> float:
    """Mean distance of pixels, as a share of their range; of a picture left in its own shape in the square that fna runs of it."""
    rows, columns = theirs.shape[1:]
    if steps.get("crop") is None and not squashes(steps):
        side = min(rows, columns)
        top, left = (rows - side) // 2, (columns - side) // 2
        theirs, rows, columns = theirs[:, top : top + side, left : left + side], side, side
    ours = transform(steps, (rows, columns))(_picture())
    return float(((ours - theirs).abs() * torch.tensor(steps["std"])[:, None, None]).mean())
