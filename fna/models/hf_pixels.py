"""Pixels as a Hugging Face image processor treats them, for any image size, by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from PIL import Image
from torch import Tensor


def transform(steps: Mapping[str, Any], size: tuple[int, int]) -> Callable[[Image.Image], Tensor]:
    """A PIL image to ``[3, h, w]`` of ``size``: ``steps`` as `fna.models.hf_files.preprocessing` gives them.

    Where the processor resizes to height and width, the picture is squashed, else its shorter side is resized; the crop keeps the
    same share of it as at the processor's own size.
    """
    from torchvision import transforms

    mode = transforms.InterpolationMode(steps["interpolation"])
    sides = [round(side / share(steps)) for side in size]
    side = sides if squashes(steps) else max(sides)
    return transforms.Compose(
        [
            transforms.Lambda(_rgb),
            transforms.Resize(side, interpolation=mode, antialias=True),
            transforms.Lambda(partial(_cropped, size=size)),
            transforms.ToTensor(),
            transforms.Normalize(steps["mean"], steps["std"]),
        ]
    )


def sized_note(steps: Mapping[str, Any], own: tuple[int, int]) -> list[str]:
    """That a processor makes pictures of another size than the network's ``own``, which they are run at."""
    made = steps.get("crop") or (steps["resize"] if squashes(steps) else None)
    rows, columns = made if isinstance(made, list) else (made, made)
    if made is None or (rows, columns) == own:
        return []
    size = f"{rows}" if rows == columns else f"[{rows},{columns}]"
    return [
        f"run at {own[0]}x{own[1]} px, the size in config.json; the image processor beside it makes {rows}x{columns}, as "
        f"transformers' own pipelines run it: image_size={size}"
    ]


def _cropped(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture, from where transformers begins: torchvision rounds half a pixel up where this rounds down."""
    (height, width), (rows, columns) = (picture.height, picture.width), size
    top, left = (height - rows) // 2, (width - columns) // 2
    return picture.crop((left, top, left + columns, top + rows))


def described(steps: Mapping[str, Any]) -> dict[str, Any]:
    """The same as settings in timm's and open_clip's words."""
    squash, kept = squashes(steps), share(steps)
    return {
        **{key: [float(number) for number in steps[key]] for key in ("mean", "std")},
        "interpolation": steps["interpolation"],
        "resize_mode": "squash" if squash else "shortest",
        "crop_pct": None if squash and kept == 1 else kept,
    }


def squashes(steps: Mapping[str, Any]) -> bool:
    """Whether the processor resizes to height and width, whatever the picture's own are."""
    return isinstance(steps.get("resize"), list)


def share(steps: Mapping[str, Any]) -> float:
    """How much of the resized shorter side the centre crop keeps: 0.875 for 224 of 256."""
    crop, resized = (min(side) if isinstance(side, list) else side for side in (steps.get("crop"), steps.get("resize")))
    return min(1.0, crop / resized) if crop and resized else 1.0


def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")
