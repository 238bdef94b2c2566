"""Every image and video encoder of the installed transformers, found by its own registries, each small and random.

A config is shrunk by the names of its numbers: few blocks, narrow, small images. Inputs are made for the names that the model's
forward has. Where the library gives neither a config nor an input that fits, the walk says which class and why.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from fna.errors import UserError
from fna.ops.contract import Site
from fna.ops.exact import Exact
from fna.ops.nystrom import FastNystrom
from fna.surgery.blocks import Tower, find_candidates, find_tower
from fna.surgery.found import Stack, pair
from fna.surgery.swap import swap_tower
from tests.surgery.zoo import liven

REGISTRIES = ("MODEL", "MODEL_FOR_IMAGE", "MODEL_FOR_BACKBONE", "MODEL_FOR_IMAGE_CLASSIFICATION", "MODEL_FOR_VIDEO_CLASSIFICATION")
SIDE = 64
LIMIT = FastNystrom(landmarks=100_000, inverse="exact")
MOST = 80_000_000  # weights
COUNTS = {
    "num_hidden_layers": 3, "depth": 3, "num_layers": 3, "encoder_layers": 3, "decoder_layers": 2, "num_decoder_layers": 1,
    "num_global_layers": 2, "pred_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "num_spatial_layers": 2,
    "num_temporal_layers": 2, "num_frames": 4, "frames_per_clip": 4, "vocab_size": 64, "num_queries": 10,
    "num_self_attends_per_block": 2, "num_blocks": 2, "num_latents": 16, "num_cross_attention_heads": 1,
}  # fmt: skip
WIDTHS = {
    "hidden_size": 64, "embed_dim": 64, "d_model": 64, "hidden_dim": 64, "embedding_dim": 64, "intermediate_size": 256,
    "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "num_attention_heads": 4, "num_heads": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 4, "out_hidden_size": 64, "decoder_hidden_size": 64,
    "pred_hidden_size": 64, "pred_num_attention_heads": 4, "encoder_hidden_dim": 64, "projection_dim": 32, "head_dim": 16,
    "mlp_dim": 96, "decoder_num_attention_heads": 4, "d_latents": 64,
}  # fmt: skip
SIDES = {"image_size": SIDE, "crop_size": SIDE}
# What a class raises whose numbers don't go together; the last is also `UserError`, which says that there is no tower.
MISFITS = (TypeError, RuntimeError, NotImplementedError, ImportError, IndexError, AttributeError, ValueError)
FOLLOW = (
    "transformers_version",
    "stage_names",
    "out_features",
    "out_indices",
    "_out_features",
    "_out_indices",
    "layer_types",
    "model_type",
)


@dataclass(frozen=True)
class Mean:
    """Every query gets the mean of the values and 1 more: an attention like no other, for as many queries as there are."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        return v.repeat_interleave(q.shape[1] // v.shape[1], 1).mean(2, keepdim=True).expand(*q.shape[:3], -1) + 1


def encoders() -> Iterator[type]:
    """The classes that see images or videos and nothing else, by name; one that needs a package that is not here is left out."""
    names = {
        name
        for registry in REGISTRIES
        for said in getattr(modeling_auto, f"{registry}_MAPPING_NAMES").values()
        for name in ((said,) if isinstance(said, str) else said)
    }
    for name in sorted(names):
        try:
            cls = getattr(transformers, name)
            said = cls.input_modalities
        except (AttributeError, ImportError):
            continue
        if set((said,) if isinstance(said, str) else said) <= {"image", "video"}:
            yield cls


def small(cls: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A random model of ``cls`` in eval mode, whose attention matters, and an input; as small as its numbers go together."""
    error: Exception | None = None
    for names in ({*COUNTS, *WIDTHS, *SIDES}, {*COUNTS, *SIDES}, set(COUNTS)):
        torch.manual_seed(0)
        try:
            config = _shrunk(cls.config_class(), names)
            with torch.device("meta"):
                numbers = sum(weight.numel() for weight in cls(config).parameters())
            if numbers > MOST:
                raise ValueError(f"{numbers / 1e6:.0f} million weights are more than a walk has time for")
            model = liven(cls(config))
            return model, fitting(model)
        except Exception as refusal:  # each class has its own way to say that its numbers don't go together
            error = refusal
    assert error is not None
    raise error


def _shrunk(config: Any, names: set[str]) -> Any:
    """``config`` with the numbers of these names made small; what follows from them is left to the class to say anew."""
    deep = getattr(config, "num_hidden_layers", None)
    fewer = isinstance(deep, int) and deep > COUNTS["num_hidden_layers"] and not hasattr(config, "depths")
    said = {name: value for name, value in config.to_dict().items() if name not in (FOLLOW if fewer else FOLLOW[:1])}
    for name, value in vars(config).items():
        if isinstance(value, transformers.PreTrainedConfig):
            said[name] = _shrunk(value, names)
        elif name == "num_layers" and hasattr(config, "depths"):
            continue  # as many as there are stages
        elif name in names and isinstance(value, int) and not isinstance(value, bool):
            said[name] = min(value, (COUNTS | WIDTHS | SIDES)[name])
        elif name == "intermediate_layers_indices":
            said[name] = [0, 1]
        elif name in names and isinstance(value, list | tuple) and name in SIDES:
            said[name] = type(value)([SIDE] * len(value))
    return type(config)(**said)


@dataclass(frozen=True)
class Outcome:
    """``exact``: nothing where each tower in a small model, swapped with `Exact`, gives what stock gives, and with another
    attention something else; ``fna``: nothing where FNA through all tokens and a solve gives it too; else a line that says why not.
    """

    exact: str
    fna: str


@dataclass
class Compared:
    """What a model gives with a tower changed: exactly, to something else, and to FNA in its limit, where that did not refuse."""

    exact: list[Tensor]
    other: list[Tensor]
    fna: list[Tensor] | None = None
    refused: str = ""


def outcome(cls: Any) -> Outcome:
    """How a small model of ``cls`` takes exact attention, and FNA."""
    told = _told(cls)
    return Outcome(told, told) if isinstance(told, str) else told


def _told(cls: Any) -> Outcome | str:
    try:
        bare = None
        with suppress(*MISFITS), torch.device("meta"):
            bare = cls(_shrunk(cls.config_class(), {*COUNTS}))
        if bare is not None:
            with suppress(*MISFITS[:-1]):
                towers(bare)  # what has none is not worth the weights
        try:
            model, given = small(cls)
        except Exception as error:
            return f"the library makes no small one: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        with torch.inference_mode():
            stock, found = results(model, given), [_compared(model, given, tower) for tower in towers(model)]
    except (UserError, RuntimeError) as error:
        return str(error).splitlines()[0]
    found = [one for one in found if one.exact]
    if not found:
        return "none of its towers ran"
    if any(not close(one.exact, stock) for one in found):
        return f"exact differs from stock by {max(worst(one.exact, stock) for one in found):.1e}"
    if any(close(one.other, stock) for one in found):
        return "no attention makes no difference"
    refused = next((one.refused for one in found if one.refused), "")
    off = max((worst(one.fna, stock) for one in found if one.fna is not None), default=0.0)
    return Outcome("", refused or (f"FNA in its limit is off by {off:.1e}" if off > 1e-4 else ""))


def towers(model: nn.Module) -> list[Tower]:
    """All towers of self-attention on images in ``model``, also where it holds several. Raises `UserError` where it holds none."""
    found = [one for one in find_candidates(model) if one.part == "vision"]
    usable = [one.tower() for one in found if not isinstance(one.found, Stack) or one.found.plain]
    return usable or [find_tower(model)]


def _compared(model: Any, given: dict[str, Tensor], tower: Tower) -> Compared:
    """What ``model`` gives with other attention in ``tower``; nothing where it does not run that tower."""
    blocks = range(len(tower.blocks))
    try:
        with swap_tower(tower, dict.fromkeys(blocks, Exact())) as swap:
            same = results(model, given)
            if not swap._run.passes:
                return Compared([], [])
    except UserError as error:
        if "no block ran" in str(error):
            return Compared([], [])
        raise
    with swap_tower(tower, dict.fromkeys(blocks, Mean())):
        found = Compared(same, results(model, given))
    try:
        with warnings.catch_warnings(), swap_tower(tower, dict.fromkeys(blocks, LIMIT)):
            warnings.simplefilter("ignore")  # that all tokens are taken
            found.fna = results(model, given)
    except UserError as error:
        found.refused = str(error)
    return found


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether outputs agree to 1e-5 of their largest value."""
    return worst(a, b) <= 1e-5


def worst(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference, of the largest value of that output or of 1."""
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1)) for x, y in zip(a, b, strict=True) if y.numel())


def results(model: Any, given: dict[str, Tensor]) -> list[Tensor]:
    """All numbers that ``model`` gives; a model that masks at random does it alike each time."""
    torch.manual_seed(0)
    return list(_numbers(model(**given)))


def _numbers(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        if out.is_floating_point():
            yield out.nan_to_num(0, 0, 0)
    elif isinstance(out, dict):
        yield from _numbers(list(out.values()))
    elif isinstance(out, list | tuple):
        for part in out:
            yield from _numbers(part)


def fitting(model: Any) -> dict[str, Tensor]:
    """The first of some inputs that ``model`` takes: an image, a video, patches in a row, with what its forward asks for beside."""
    error: Exception | None = None
    for given in _inputs(model):
        try:
            with torch.inference_mode():
                model(**given)
            return given
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as refusal:
            error = error or refusal
    raise error or ValueError("no input is known")


def _inputs(model: Any) -> Iterator[dict[str, Tensor]]:
    config, asked = model.config, inspect.signature(type(model).forward).parameters
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    main = next(
        (name for name in ("pixel_values", "pixel_values_videos", "hidden_states", "inputs") if name in asked), "pixel_values"
    )
    further: dict[str, Tensor] = {}
    if "input_ids" in asked:
        further["input_ids"] = torch.arange(1, 9)[None]
    vision = getattr(config, "vision_config", config)
    patch, channels = getattr(vision, "patch_size", 8), getattr(vision, "num_channels", getattr(vision, "in_channels", 3))
    if "spatial_shapes" in asked:
        mask = torch.ones(1, 16, dtype=torch.long)
        mask[0, 12:] = 0
        shapes = torch.tensor([[3, 4]])
        yield {main: draw(1, 16, channels * patch**2), "pixel_attention_mask": mask, "spatial_shapes": shapes} | further
    if "aspect_ratio_ids" in asked:
        ids, mask = torch.ones(1, 1, dtype=torch.long), torch.ones(1, 1, 4, dtype=torch.long)
        side = vision.image_size
        yield {main: draw(1, 1, 4, 3, side, side), "aspect_ratio_ids": ids, "aspect_ratio_mask": mask}
    if grid := next((name for name in ("grid_thw", "image_grid_thw") if name in asked), None):
        further[grid] = torch.tensor([[1, 8, 8], [1, 4, 4]])
        if "merge_sizes" in asked:
            further["merge_sizes"] = torch.tensor([2, 2])
        for times in (getattr(vision, "temporal_patch_size", 1), 1, 2):
            yield {main: draw(80, channels * times * patch**2)} | further
        yield {main: draw(80, channels, patch, patch)} | further
        merge = getattr(vision, "spatial_merge_size", 2)
        yield {main: draw(80, patch * merge, patch * merge, channels)} | further
    if "prompt_masks" in asked:  # stands above the image, in one picture
        above, wide = config.image_size[0] // 2, config.image_size[1]
        yield {name: draw(1, 3, above, wide) for name in (main, "prompt_pixel_values", "prompt_masks")}
    if main == "inputs" and hasattr(config, "d_model"):
        yield {main: draw(1, 16, config.d_model)}
    if "task_inputs" in asked:
        further["task_inputs"] = torch.arange(77)[None] % 8
    own = pair(getattr(vision, "image_size", None)) or (SIDE, SIDE)
    for side in (own[0], 224, 2 * SIDE):  # Swin's windows shrink for good in a smaller image: its own size first
        yield {main: draw(1, 3, side, side)} | further
        yield {main: draw(1, getattr(config, "num_frames", getattr(config, "frames_per_clip", 4)), 3, side, side)} | further
