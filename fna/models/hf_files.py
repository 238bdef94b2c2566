"""What lies beside the weights in a Hugging Face folder: config.json and preprocessor_config.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.errors import UserError
from fna.models.checkpoint_paths import FOLDER_FILES, folders_below
from fna.models.hf_processors import check_processor, filled
from fna.records import regular
from fna.values import Channels, Spreads, held

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # PIL's numbers
PIXELS = (
    *("image_mean", "image_std", "resample", "size", "crop_size", "crop_pct", "rescale_factor"),
    *("do_resize", "do_rescale", "do_normalize", "do_center_crop"),
)
UNTAKEN = ("keep_aspect_ratio", "rescale_offset", "size_divisor")  # steps of single processors that no transform here has


def unread_config(checkpoint: str | Path | None) -> str:
    """A note on a config.json beside a file whose name is not one that transformers gives; empty where there is none."""
    if checkpoint is None or folder_of(checkpoint) is not None or not Path(checkpoint).with_name("config.json").is_file():
        return ""
    path = Path(checkpoint)
    config = path.with_name("config.json")
    return f"{config} is not read, for {path.name} is no name that transformers gives; give the folder to follow it"


def folder_of(checkpoint: str | Path | None) -> Path | None:
    """The Hugging Face folder that a checkpoint is, or lies in under its usual name; None for any other file."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return path if path.is_dir() else path.parent if path.name in FOLDER_FILES else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` for a file that is not there or holds something else."""
    try:
        found = json.loads(regular(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        below = folders_below(path.parent, [path.name]) if isinstance(error, FileNotFoundError) else ""
        which = f"; the folder holds none, {below}; give one with model.checkpoint=FOLDER." if below else ""
        raise UserError(
            f"{path}: cannot be read as JSON ({reason}){which or '; give a folder that save_pretrained made.'}"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds a {type(found).__name__}, not settings by name; fetch it again.")
    return found


def model_config(folder: Path | None) -> dict[str, Any]:
    """The folder's config.json, empty where there is none."""
    return {} if folder is None or not (folder / "config.json").is_file() else read_json(folder / "config.json")


def preprocessing(folder: Path | None) -> dict[str, Any]:
    """mean, std and interpolation as the image processor says, with ``resize`` (a side, or [height, width]) and ``crop``.

    What the file leaves out is as transformers has it for the processor that it names; without a name it is left out here too.
    Empty where the folder has none. Raises `UserError` for steps that fna does not know how to run.
    """
    file = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None) if folder is not None else None
    if file is None:
        return {}
    raw = read_json(file)
    raw = inner(raw, "image_processor", file) or raw
    said = filled(raw, file)
    if not set(said) & set(PIXELS):
        return {}  # a tokenizer's own settings, or somebody else's
    other = [key for key, value in said.items() if key.startswith("do_") and value and key not in (*PIXELS, "do_convert_rgb")]
    if other:
        raise UserError(f"{file}: {other[0]}: fna knows no such step; drop the file and give mean and std.")
    odd = next((key for key, value in said.items() if key.startswith("do_") and not isinstance(value, bool | None)), None)
    if odd is not None:
        raise UserError(f"{file}: {odd}={said[odd]!r}: true or false is needed; mend the file or drop it.")
    factor = 1 / 255 if said.get("rescale_factor") is None else said["rescale_factor"]
    if said.get("do_rescale", True) and not (isinstance(factor, float) and abs(factor * 255 - 1) <= 1e-3):
        raise UserError(f"{file}: rescale_factor={factor}: fna scales pixels by 1/255 only; drop the file and give mean and std.")
    for key, does in (("do_rescale", "scales pixels by 1/255"), ("do_resize", "resizes pictures")):
        if said.get(key) is False:
            raise UserError(f"{file}: {key}=false: fna {does} always; drop the file and give mean and std.")
    for key in UNTAKEN:
        if said.get(key):
            raise UserError(f"{file}: {key}={str(said[key]).lower()}: fna knows no such step; drop the file and give mean and std.")
    steps = check_pixels(_normalized(said, file), file) | _sized(said, file)
    check_processor(raw, steps, PIXELS, file)
    return steps


def inner(config: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    """Settings within settings, empty where there are none. Raises `UserError` for what is none."""
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise UserError(f"{file}: {key} holds a {type(found).__name__}, not settings by name; fetch it again.")
    return found


def check_pixels(said: dict[str, Any], file: Path) -> dict[str, Any]:
    """``said`` itself. Raises `UserError` for a mean or std that is not of pixels from 0 to 1, as those of 0 to 255 are not."""
    for key, kind in (("mean", Channels), ("std", Spreads)):
        if key in said:
            held(kind, said[key], f"{file}: {key}")
    return said


def processor_steps(name: str) -> tuple[dict[str, Any], bool]:
    """The same as `preprocessing` for an image processor of transformers by its name alone, as far as fna follows it, and whether
    that is all that it does."""
    file, named = Path(name), {"image_processor_type": name}
    said = filled(named, file)
    steps = _normalized(said, file)
    try:
        steps |= _sized(said, file)
        check_processor(named, steps, PIXELS, file)
    except UserError:
        return steps, False
    return steps, True


def _normalized(said: Mapping[str, Any], file: Path) -> dict[str, Any]:
    if said.get("do_normalize") is False:
        return {"mean": [0.0] * 3, "std": [1.0] * 3}
    found = {}
    if said.get("image_mean") is not None:
        found["mean"] = _three(said["image_mean"], file)
    if said.get("image_std") is not None:
        found["std"] = _positive(_three(said["image_std"], file), file)
    return found


def _sized(said: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """interpolation, ``resize`` and ``crop``, as far as they are said."""
    found: dict[str, Any] = {}
    if said.get("resample") is not None:
        found["interpolation"] = _interpolation(said["resample"], file)
    if said.get("size") is not None:
        found["resize"] = _size(said["size"], file)
    crops = said.get("do_center_crop")
    if crops or (crops is None and said.get("crop_size") is not None):
        found["crop"] = _size(said.get("crop_size"), file)
    elif crops is False or "resize" in found:
        found["crop"] = None
    return found


def _positive(std: list[float], file: Path) -> list[float]:
    if not all(value > 0 for value in std):
        raise UserError(f"{file}: image_std={std}: pixels cannot be divided by that; drop the file and give mean and std.")
    return std


def _three(value: Any, file: Path) -> list[float]:
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(isinstance(number, int | float) and math.isfinite(number) for number in values):
        raise UserError(f"{file}: {value}: three numbers are wanted, one a colour.")
    return [float(number) for number in values]


def _interpolation(value: Any, file: Path) -> str:
    found = INTERPOLATIONS.get(value) if isinstance(value, int) and not isinstance(value, bool) else str(value).lower()
    if found not in INTERPOLATIONS.values():
        raise UserError(f"{file}: resample={value}: unknown; it is a number from 0 to 5.")
    return str(found)


def _size(value: Any, file: Path) -> int | list[int] | None:
    """A shorter side, or [height, width]; None where nothing is said."""
    if value is None:
        return None
    sides = {key: side for key, side in value.items() if side is not None} if isinstance(value, dict) else {}
    if set(sides) == {"shortest_edge"}:
        value = sides["shortest_edge"]
    elif set(sides) == {"height", "width"}:
        value = [sides["height"], sides["width"]]
    listed = value if isinstance(value, list) else [value]
    if len(listed) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in listed):
        raise UserError(f"{file}: size {value}: fna knows shortest_edge, or height and width, in pixels.")
    return listed if isinstance(value, list) else listed[0]
