"""Checkpoint files for open_clip's models: whose names, which size, what would fit."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.errors import UserError
from fna.models import naming, weights
from fna.models.checkpoint_files import load
from fna.models.checkpoint_paths import part_of_several
from fna.models.checkpoints import Checkpoint, unpack
from fna.models.hf_files import folder_of
from fna.models.settings import Grid, table_grid
from fna.models.timm_names import on_hub
from fna.records import regular
from fna.values import counted

# OpenAI's files keep these numbers beside the weights; position_ids are counted anew by every library.
SPARE = ("input_resolution", "context_length", "vocab_size")
CONFIG = "open_clip_config.json"
KEPT = 20  # positions of Long-CLIP that are those of the CLIP it was trained from (Zhang et al. 2024, arXiv 2403.15378)
TABLES = ("visual.positional_embedding", "visual.trunk.pos_embed")


def read(path: str, net: Any, part: str | None) -> tuple[Checkpoint, dict[str, Tensor]]:
    """What the file holds for ``net``, and the same under the names that ``net`` has for it, through open_clip's own converter."""
    from open_clip.convert import convert_state_dict

    loaded = load(path)
    own = net.state_dict()
    rules = naming.best_match(loaded, own, naming.FOR_OPEN_CLIP)
    if rules is not None:
        found = unpack(loaded, naming.source_names(own, rules), path, part)
        state = naming.converted(found.state, own, rules)
    else:
        found = unpack(loaded, own, path, part)
        state = convert_state_dict(net, dict(found.state))
    for name in ("logit_scale", "logit_bias"):  # of a scalar or of one element, as releases differ
        if name in state and name in own and state[name].numel() == own[name].numel():
            state[name] = state[name].reshape(own[name].shape)
    if "logit_bias" in own and "logit_bias" not in state and "logit_scale" in state:
        state["logit_bias"] = torch.zeros_like(own["logit_bias"])  # adds to all scores alike
    if "logit_bias" in state and "logit_bias" not in own:
        del state["logit_bias"]
    kept = {name: tensor for name, tensor in state.items() if name not in SPARE and not name.endswith("position_ids")}
    return found, kept


def made_for(path: str, state: Mapping[str, Tensor], net: Any, name: str, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The image size of the file's position table where that is not the model's, else None.

    Raises `UserError` for a table of another size than the model's where no ``size`` was asked for, or of no square, if all else
    fits.
    """
    own = net.state_dict()
    if weights.misfit(_body(own), _body(state)):
        return None  # another model, not another size: `fit` says so
    key = next((key for key in TABLES if key in state and key in own), None)
    if key is None or state[key].shape == own[key].shape or state[key].shape[-1] != own[key].shape[-1]:
        return None
    grid, patch = layout(net.visual)
    prefix = own[key].shape[-2] - grid[0] * grid[1]
    asked = None if size is None else (size[0] // patch[0], size[1] // patch[1])
    found = table_grid(state[key].shape[-2], prefix, asked)
    if found is None:
        raise UserError(
            f"{path}: does not fit open_clip {name}: its position table has {state[key].shape[-2]} rows, which is no square of "
            "patches; give image_size=[ROWS,COLUMNS] of the images that it was trained on."
        )
    pixels = found[0] * patch[0], found[1] * patch[1]
    if size is None:
        better = looks_like(state, name)
        instead = f", or model.name={better}" if better else ""
        raise UserError(
            f"{path}: does not fit open_clip {name}: its position table is for images of {pixels[0]}x{pixels[1]} px, the model's "
            f"for {grid[0] * patch[0]}x{grid[1] * patch[1]}; give image_size={pixels[0]}{instead}."
        )
    return pixels


def openai_note(path: str, found: Checkpoint) -> str:
    """Of a file of OpenAI's own, which is run without their activation: that it is one; empty for others."""
    if not {*SPARE} <= found.state.keys():
        return ""
    return f"{path}: holds {SPARE[0]}, as OpenAI's own files do, whose networks have QuickGELU: model.pretrained=openai follows it"


def _body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model without its table of image positions: what has one shape at all sizes."""
    return {name: tensor for name, tensor in state.items() if name not in TABLES}


def check_config(folder: Path, built: Mapping[str, Any], apart: Collection[str], name: str) -> None:
    """Raise `UserError` where an open_clip_config.json beside the weights says another architecture than is ``built``.

    ``apart``: keys that were said otherwise.
    """
    if not (folder / CONFIG).is_file():
        return
    said, own = _flat(folder_config(folder)), _flat(built)
    wrong = [key for key in {**said, **own} if said.get(key) != own.get(key) and key not in apart]
    if wrong:
        what = f"{wrong[0]} is {said.get(wrong[0])}, {name} has {own.get(wrong[0])}"
        raise UserError(f"{folder / CONFIG}: {what}; model.name=local-dir:{folder} runs it as it says.")


def fit(path: str, state: Mapping[str, Tensor], net: Any, name: str) -> None:
    """Load the tensors into ``net``. Raises `UserError` for what does not fit, naming what would."""
    own = net.state_dict()
    problem = weights.misfit(_body(own), _body(state)) or weights.misfit(own, state)
    if problem:
        hint = "" if weights.whole_numbers(own, state) else _remedy(own, state, name, path)
        raise UserError(f"{path}: does not fit open_clip {name}: {problem}{part_of_several(path) or hint}.")
    net.load_state_dict(dict(state), strict=True)


def _remedy(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str, path: str) -> str:
    """What would make the tensors fit; empty where nothing is known."""
    if {"conv1.weight", "class_embedding"} <= state.keys():
        return "; it is an image tower alone (conv1.weight): give the whole model's tensors, whose text tower reads the names"
    if more := [key for key in state if key not in own]:
        rest = {key: tensor for key, tensor in state.items() if key in own}
        if not weights.misfit(own, rest):  # no other network has a place for them either
            return f"; all else fits: it was trained with {counted(len(more), 'tensor')} more, which fna does not run"
    if better := looks_like(state, name):
        return f"; this looks like {better}: give model.name={better}"
    return _other_context(own, state, name, path)


def _other_context(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str, path: str) -> str:
    """What runs a text tower that reads another number of tokens, as Long-CLIP's 248, where all else fits; else empty."""
    key = next((key for key in ("positional_embedding", "text.positional_embedding") if key in own and key in state), "")
    rest = {other: tensor for other, tensor in state.items() if other not in (key, f"{key}_res")}
    if not key or weights.misfit({other: tensor for other, tensor in own.items() if other != key}, rest):
        return ""
    length = state[key].shape[0]
    said = f"; all else fits: its text tower reads {length} tokens"
    if (beside := folder_of(path)) is not None and (beside / "config.json").is_file():
        folder = f"a folder of transformers' (CLIPModel, max_position_embeddings {length})"
        return f"{said}: {folder} is run by model=hf model.checkpoint={beside}"
    config = f"open_clip's config of {name} with context_length: {length} in text_cfg, as FOLDER/{CONFIG}"
    run = f"write {config}, and give model.name=local-dir:FOLDER model.checkpoint="
    if f"{key}_res" in state:  # whose forward adds the one up to its 20th position, the other from there on
        joined = f"state['{key}'][{KEPT}:] = state.pop('{key}_res')[{KEPT}:]"
        return (
            f"{said}, by two tables of positions, as Long-CLIP's own files have them, which neither open_clip nor transformers "
            f"reads: save it with one, {joined}; then {run}FILE"
        )
    return f"{said}: {run}{path}"


def folder_config(folder: Path) -> dict[str, Any]:
    """model_cfg of a folder's open_clip_config.json."""
    path = folder / CONFIG
    try:
        return dict(json.loads(regular(path).read_text(encoding="utf-8-sig"))["model_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no open_clip config ({weights.first_line(error)}); it must hold model_cfg.") from error


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's settings by dotted names; what says no (``quick_gelu: false``, null) is left out, as it often is."""
    parts = {key: value if isinstance(value, Mapping) else {"": value} for key, value in config.items()}
    flat = {f"{key}.{name}".rstrip("."): value for key, part in parts.items() for name, value in part.items()}
    return {key: value for key, value in flat.items() if value not in (None, False)}


def layout(visual: Any) -> tuple[Grid, Grid]:
    """Patches of an image and pixels of a patch, both (rows, columns)."""
    source = visual.trunk.patch_embed if hasattr(visual, "trunk") else visual
    return tuple(source.grid_size), tuple(source.patch_size)


def looks_like(state: Mapping[str, Tensor], name: str) -> str | None:
    """A built-in model of open_clip's own towers whose sizes are those of the tensors, as like ``name`` as there is."""
    import open_clip

    state = {key.removeprefix("text."): tensor for key, tensor in state.items()}
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "positional_embedding", "token_embedding.weight")
    if any(key not in state for key in needed):
        return None
    conv, table, proj, text, words = (state[key] for key in needed)
    depth = [len({key.split(".")[at + 1] for key in state if key.startswith(start)}) for at, start in ((2, _VISION), (1, _TEXT))]
    wanted = [proj.shape[1], conv.shape[0], conv.shape[-1], table.shape[0] - 1, depth[0], *text.shape, words.shape[0], depth[1]]
    fitting = [other for other in open_clip.list_models() if other != name and _sizes(open_clip.get_model_config(other)) == wanted]
    return max(fitting, key=lambda other: difflib.SequenceMatcher(None, other, name).ratio(), default=None)


_VISION, _TEXT = "visual.transformer.resblocks.", "transformer.resblocks."


def _sizes(config: Mapping[str, Any] | None) -> list[int] | None:
    """What `looks_like` reads off the tensors, as a config says it; None for towers that are not open_clip's own."""
    vision, text = (config or {}).get("vision_cfg", {}), (config or {}).get("text_cfg", {})
    if config is None or "timm_model_name" in vision or "hf_model_name" in text or not isinstance(vision.get("layers"), int):
        return None
    patch, image = vision.get("patch_size", 16), vision.get("image_size", 224)
    if not isinstance(image, int) or not isinstance(patch, int):
        return None
    own = [config["embed_dim"], vision.get("width", 768), patch, (image // patch) ** 2, vision["layers"]]
    return [*own, text.get("context_length", 77), text.get("width", 512), text.get("vocab_size", 49408), text.get("layers", 12)]


def near(name: str) -> str:
    """What to write for a name that open_clip does not have: its own of that network (ViT-L-14 for ViT-L/14), or where they are."""
    import open_clip

    names = {known.lower(): known for known in open_clip.list_models()}
    plain = re.sub("[/_]", "-", name.lower())
    found = difflib.get_close_matches(plain, names, 1, 0.8) or sorted((known for known in names if known in plain), key=len)[-1:]
    return (f"did you mean {names[found[0]]}?" if found else "open_clip.list_models() lists them.") + on_hub(name)
