"""Which class of transformers runs a folder, how its pictures are usually made, where the hub's files lie: by its registries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.errors import UserError
from fna.models.hf_files import processor_steps, read_json
from fna.models.weights import first_line

WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
HEADS = ("MODEL_FOR_IMAGE_CLASSIFICATION", "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION")
PLAIN = ("MODEL_FOR_IMAGE", "MODEL")


def config_of(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises `UserError` for a folder of timm's or open_clip's, with what runs it, and as `read_json`."""
    file = folder / "config.json"
    if (folder / "open_clip_config.json").is_file() and not file.is_file():
        raise UserError(
            f"{folder}: is a folder of open_clip's, not of transformers': model=clip_l14 model.name=local-dir:{folder}."
        )
    config = read_json(file)
    if "model_type" not in config and isinstance(config.get("architecture"), str):
        name = config["architecture"]
        raise UserError(f"{file}: is timm's, not transformers': model=vit model.name={name} model.checkpoint={folder}.")
    return config


def class_for(config: Mapping[str, Any], file: Path) -> str:
    """The class that the config names where that is a classifier or a pair of towers, else the plain model of its kind.

    Raises `UserError` for a kind that transformers does not have, and one that sees no images alone.
    """
    import transformers

    kind = str(config.get("model_type"))
    said = (config.get("architectures") or [None])[0]
    headed = [name for registry in HEADS for name in _names(registry, kind)]
    plain = [name for registry in PLAIN for name in _names(registry, kind)]
    name = said if said in headed else next(iter(plain), None)
    if name is None:
        own = f"transformers' own {said}" if said and hasattr(transformers, said) else "the class that made it"
        raise UserError(
            f"{file}: model_type is {kind}, of which transformers {transformers.__version__} has no plain encoder and no "
            f"classifier; load it with {own} and use fna.swap on it in your own code."
        )
    cls: Any = getattr(transformers, name)
    modalities = cls.input_modalities
    sees = {modalities} if isinstance(modalities, str) else set(modalities)
    if "image" not in sees or (sees - {"image"} and not hasattr(cls, "get_image_features")):
        raise UserError(
            f"{file}: model_type is {kind}, whose {name} takes {', '.join(sorted(sees))}; model=hf runs encoders of images, alone "
            "or paired with texts as in CLIP. Use fna.swap on the model in your own code."
        )
    return name


def usual_steps(kind: str) -> dict[str, Any]:
    """What the image processor that transformers has for a kind of model does by default to pixels, as far as fna follows it."""
    half: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": None, "crop": None}
    name = _usual_processor(kind)
    return half if name is None else half | processor_steps(name)[0]


def usually(kind: str) -> str:
    """How those steps are called: "as beit usually is", with what is missing of that."""
    name = _usual_processor(kind)
    if name is None or processor_steps(name)[1]:
        return f"as {kind} usually is"
    return f"as {kind} usually is but for what its {name} does to a picture beyond resizing, cropping and normalising"


def _usual_processor(kind: str) -> str | None:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    found: Any = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind)
    return found.get("torchvision") if isinstance(found, Mapping) else found


def fetched(name: str) -> str:
    """The folder into which the hub's client fetches ``name``. Raises `UserError` where neither the hub nor this machine has it."""
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # the client has a class for each way to fail
        raise UserError(
            f"{name}: no such folder, and the hub did not give it ({type(error).__name__}: {first_line(error)}); "
            "give a folder that save_pretrained made with model.checkpoint=FOLDER."
        ) from error


def _names(registry: str, kind: str) -> tuple[str, ...]:
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, f"{registry}_MAPPING_NAMES").get(kind, ())
    return (found,) if isinstance(found, str) else tuple(found)
