"""What lies beside the weights in a Hugging Face folder: config.json and preprocessor_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.errors import UserError
from fna.models.checkpoint_files import FOLDER_FILES

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # PIL's numbers
SIZES = {"shortest_edge", "height", "width"}


def folder_of(checkpoint: str | Path | None) -> Path | None:
    """The Hugging Face folder that a checkpoint is, or lies in under its usual name; None for any other file."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return path if path.is_dir() else path.parent if path.name in FOLDER_FILES else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` for a file that is not there or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(f"{path}: cannot be read as JSON ({reason}); give a folder that save_pretrained made.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds a {type(found).__name__}, not settings by name; fetch it again.")
    return found


def model_config(folder: Path | None) -> dict[str, Any]:
    """The folder's config.json, empty where there is none."""
    return {} if folder is None or not (folder / "config.json").is_file() else read_json(folder / "config.json")


def activation(config: Mapping[str, Any]) -> str | None:
    """``hidden_act`` of the image tower."""
    found = (config.get("vision_config") or config).get("hidden_act")
    return None if found is None else str(found)


def preprocessing(folder: Path | None) -> dict[str, Any]:
    """mean, std and interpolation as the image processor says, with ``resize`` (a side, or [height, width]) and ``crop``.

    Empty where the folder has none. Raises `UserError` for steps that fna does not know how to run.
    """
    file = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None) if folder is not None else None
    if file is None:
        return {}
    said = read_json(file)
    said = said.get("image_processor") or said
    if "image_mean" not in said and "image_std" not in said and said.get("do_normalize") is not False:
        return {}  # a tokenizer's own settings, or somebody else's
    factor = said.get("rescale_factor", 1 / 255)
    if said.get("do_rescale", True) and abs(factor * 255 - 1) > 1e-3:
        raise UserError(f"{file}: rescale_factor={factor}: fna scales pixels by 1/255 only; drop the file and give mean and std.")
    if said.get("do_rescale") is False:
        raise UserError(f"{file}: do_rescale=false: fna scales pixels by 1/255 always; drop the file and give mean and std.")
    plain = said.get("do_normalize") is False
    return {
        "mean": [0.0] * 3 if plain else _three(said.get("image_mean", 0.5), file),
        "std": [1.0] * 3 if plain else _positive(_three(said.get("image_std", 0.5), file), file),
        "interpolation": _interpolation(said.get("resample", 3), file),
        "resize": _size(said.get("size"), file) if said.get("do_resize", True) else None,
        "crop": _size(said.get("crop_size"), file) if said.get("do_center_crop", False) else None,
    }


def _positive(std: list[float], file: Path) -> list[float]:
    if not all(value > 0 for value in std):
        raise UserError(f"{file}: image_std={std}: pixels cannot be divided by that; drop the file and give mean and std.")
    return std


def _three(value: Any, file: Path) -> list[float]:
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(isinstance(number, int | float) for number in values):
        raise UserError(f"{file}: {value}: three numbers are wanted, one a colour.")
    return [float(number) for number in values]


def _interpolation(value: Any, file: Path) -> str:
    found = INTERPOLATIONS.get(value) if isinstance(value, int) else str(value).lower()
    if found not in INTERPOLATIONS.values():
        raise UserError(f"{file}: resample={value}: unknown; it is a number from 0 to 5.")
    return str(found)


def _size(value: Any, file: Path) -> int | list[int] | None:
    """A shorter side, or [height, width]; None where nothing is said."""
    if isinstance(value, dict):
        kept = {key: side for key, side in value.items() if side is not None}
        if set(kept) == {"shortest_edge"}:
            return int(kept["shortest_edge"])
        if set(kept) == {"height", "width"}:
            return [int(kept["height"]), int(kept["width"])]
        raise UserError(f"{file}: size {value}: fna knows shortest_edge, or height and width.")
    return value if value is None or isinstance(value, int) else [int(side) for side in value]
