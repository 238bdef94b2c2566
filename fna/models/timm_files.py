"""Checkpoint files for timm's vision transformers: whose names, which size and head, what would fit."""

from __future__ import annotations

import difflib
import io
import math
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor

from fna.errors import UserError
from fna.models import naming, timm_heads, timm_sizes, timm_training, weights
from fna.models.checkpoint_files import load
from fna.models.checkpoint_paths import part_of_several
from fna.models.checkpoints import Checkpoint, unpack
from fna.models.hf_files import folder_of, model_config
from fna.models.settings import table_grid
from fna.values import counted

# What is no part of the running network, in whoever's file it lies.
SPARE = (
    "mask_token",
    "embeddings.mask_token",
    "pre_logits.fc.weight",
    "pre_logits.fc.bias",
    "pooler.dense.weight",
    "pooler.dense.bias",
)
QKV_BIAS = ".attn.qkv.bias"
DECODER = ("decoder.", "decoder_")  # of MAE and its kin, beside the encoder
TABLE = "pos_embed"
PATCHES = "patch_embed.proj.weight"
SIZES = {
    192: "tiny",
    384: "small",
    512: "medium",
    768: "base",
    1024: "large",
    1280: "huge",
    1408: "giant",
    1536: "giant",
    1664: "gigantic",
}
# Tensors that tell families of networks which are called otherwise than vit_*.
FAMILIES = {
    "dist_token": "deit_{}_distilled_patch{}_*",
    "blocks.0.ls1.gamma": "deit3_{}_patch{}_*",
    "blocks.0.attn.relative_position_bias_table": "beit*_{}_patch{}_*",
    "blocks.0.attn.q_bias": "eva02_{}_patch{}_*",
    "blocks.0.mlp.fc1_g.weight": "eva02_{}_patch{}_*",
}
OWN_CODE = (
    "; made with other options of timm? build it in your own code: fna.compare(timm.create_model('{name}', OPTION=...), loader) "
    "(docs/models_timm.md)"
)
TRIED = 8  # models that are built (without memory) to see whether one would take the file


def read(path: str, net: Any, part: str | None) -> tuple[Checkpoint, dict[str, Tensor], dict[str, Any]]:
    """What the file holds for ``net``, the same under timm's names, through timm's own converter where it has one, and what it
    says of the training that it is of."""
    from timm.models.vision_transformer import VisionTransformer

    loaded = load(path)
    own = dict(net.state_dict())
    if "head.weight" not in own:  # a head that the network was not built with, yet
        own |= {name: torch.empty(0) for name in timm_heads.HEAD}
    rules = naming.best_match(loaded, own, naming.FOR_TIMM)
    if rules is not None:
        found = unpack(loaded, naming.source_names(own, rules), path, part)
        state = naming.converted(found.state, own, rules)
        if "reg_token" in state and state["pos_embed"].shape[1] > own["pos_embed"].shape[1]:
            # in Meta's layout, which timm knows how to take apart: the class token has a place in the table there
            state = {**state, "register_tokens": state.pop("reg_token"), "mask_token": torch.zeros(1)}
    else:
        found = unpack(loaded, own, path, part)
        state = {name: naming.shaped(tensor, own[name]) if name in own else tensor for name, tensor in found.state.items()}
    signs = (
        {"mask_token", "visual.class_embedding"} if isinstance(net, VisionTransformer) else {"storage_tokens"}
    )  # of Meta's files
    convert = _converter(net)
    if convert is not None and signs & state.keys():
        state = _without_resampling(state, net, convert)
    found, state = timm_heads.adopted(found, timm_heads.with_second(state, net), net)
    return found, {name: tensor for name, tensor in state.items() if name not in SPARE}, timm_training.said(loaded)


def _converter(net: Any) -> Any:
    """timm's converter of files for networks of this class: in the module of the class, or of one that it is made from."""
    found = (getattr(sys.modules[kind.__module__], "checkpoint_filter_fn", None) for kind in type(net).__mro__)
    return next((convert for convert in found if convert is not None), None)


def _without_resampling(state: dict[str, Tensor], net: Any, convert: Any) -> dict[str, Tensor]:
    """timm's conversion of names alone: the table and the patches are kept as they are, what becomes of them is decided and said
    elsewhere. Nor are biases lost that a network has no place for: timm takes them for zeros."""
    kept = {name: state[name] for name in (TABLE, PATCHES) if name in state and state[name].dim() > 2}
    if "register_tokens" in state and TABLE in kept:
        kept[TABLE] = kept[TABLE][:, 1:]
    with redirect_stdout(io.StringIO()):  # it prints what it leaves out
        made = convert(dict(state), net)
    split = {name for name in state if name.removesuffix("qkv.bias") + "q_bias" in made}
    kept |= {name: tensor for name, tensor in state.items() if name.endswith(QKV_BIAS) and name not in split and tensor.any()}
    return {**made, **kept}


def options(
    path: str, state: Mapping[str, Tensor], net: Any, name: str, size: tuple[int, int] | None, classes: int | None
) -> dict[str, Any]:
    """What ``net`` has to be built with for the file: its number of classes, the image size of its position table.

    Raises `UserError` for a table of another size than the model's where no ``size`` was asked for, if all else fits.
    """
    found: dict[str, Any] = {}
    head = state.get("head.weight")
    rows = head.shape[0] if head is not None and head.dim() == 2 else 0
    if classes is None and rows != net.num_classes:
        found["num_classes"] = rows
    if weights.misfit(trunk(net.state_dict()), trunk(state)):
        return found  # another model, not another size: `fit` says so
    table, own = state.get("pos_embed"), getattr(net, "pos_embed", None)
    if table is None or own is None or table.dim() != 3 or table.shape == own.shape or table.shape[2] != own.shape[2]:
        return found
    patch, grid = net.patch_embed.patch_size, net.patch_embed.grid_size
    asked = timm_sizes.grid(net, size)
    prefix = own.shape[1] - grid[0] * grid[1]
    made_for = table_grid(table.shape[1], prefix, asked)
    if made_for is None:
        why = f"its position table has {table.shape[1]} rows, which is no square of patches beside {counted(prefix, 'token')}"
        better = looks_like(state, name)
        if not better and table_grid(table.shape[1], 0, None):
            raise UserError(f"{path}: does not fit timm {name}: {why}; without any it is one{OWN_CODE.format(name=name)}.")
        mend = _instead(better) or "; give image_size=[ROWS,COLUMNS] of the images that it was trained on"
        raise UserError(f"{path}: does not fit timm {name}: {why}{mend}.")
    pixels = made_for[0] * patch[0], made_for[1] * patch[1]
    if size is None:
        raise UserError(
            f"{path}: does not fit timm {name}: its position table is for images of {pixels[0]}x{pixels[1]} px "
            f"({made_for[0]}x{made_for[1]} patches), the model's for {grid[0] * patch[0]}x{grid[1] * patch[1]}; "
            f"give image_size={pixels[0]} to run it at its own size."
        )
    return {**found, "img_size": pixels}


def fit(path: str, state: Mapping[str, Tensor], net: Any, name: str) -> list[str]:
    """Load the tensors into ``net``; what has to be said of it. Raises `UserError` for what does not fit, naming what would."""
    notes = []
    expected = net.state_dict()
    dropped = [] if any(map(timm_heads.of_a_head, expected)) else [key for key in state if timm_heads.of_a_head(key)]
    if dropped:
        asked = ", as asked with model.num_classes=0" if timm_heads.HEAD[0] in dropped else ""
        notes.append(f"{path}: its {timm_heads.in_words(state, dropped)} was left out{asked}")
        state = {key: tensor for key, tensor in state.items() if key not in dropped}
    if decoder := [key for key in state if key.startswith(DECODER) and key not in expected]:
        notes.append(f"{path}: its decoder, which masked pre-training leaves, was left out ({counted(len(decoder), 'tensor')})")
        state = {key: tensor for key, tensor in state.items() if key not in decoder}
    problem = weights.misfit(expected, state)
    if problem.startswith(f"{TABLE} is "):  # of another network the table may well be another, which is not what is wrong with it
        problem = weights.misfit(trunk(expected), trunk(state)) or problem
    if problem:
        what = f"timm {name} {f'with {net.num_classes} classes' if net.num_classes else 'without a head'}"
        remedy = part_of_several(path) or _remedy(expected, state, name)
        remedy = remedy or _for_transformers(path) or _own_code(expected, state, name)
        raise UserError(f"{path}: does not fit {what}: {problem}{remedy}.")
    net.load_state_dict(dict(state), strict=True)
    return notes


def _own_code(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> str:
    """For tensors most of whose names are the network's: how another network of timm's is run. Empty for any others."""
    alike = 2 * sum(key in state for key in expected) >= len(expected)
    quantised = weights.whole_numbers(expected, state) or any(key.endswith(weights.QUANTISED) for key in state)
    return OWN_CODE.format(name=name) if alike and not quantised else ""


def _for_transformers(path: str) -> str:
    """For a folder of transformers' whose names nobody makes timm's: what runs it as it is. Empty for any other file."""
    folder = folder_of(path)
    kind = model_config(folder).get("model_type")
    return f"; it is a {kind} of transformers': model=hf model.checkpoint={folder} runs it as it is" if kind else ""


def trunk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network without its head, its position table and a decoder: what has one shape at all sizes and for all classes."""
    return {
        name: tensor
        for name, tensor in state.items()
        if not (timm_heads.of_a_head(name) or name == TABLE or name.startswith(DECODER))
    }


def _remedy(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> str:
    """Which option would make the tensors fit; empty where none is known."""
    if weights.whole_numbers(expected, state):
        return ""
    if biased := _with_biases(expected, state, name):
        return f"; its queries and values have biases: give model.name={biased}"
    body, own = ({key: value for key, value in part.items() if not timm_heads.of_a_head(key)} for part in (expected, state))
    if weights.misfit(body, own):
        return _pooling_remedy(body, own) or _instead(looks_like(state, name))
    if "head.weight" in state:
        rows = state["head.weight"].shape[0]
        return f"; its head is of {counted(rows, 'class', 'classes')}, all else fits: give model.num_classes={rows}"
    of_a_head = [key for key in state if timm_heads.of_a_head(key)]
    what = "it has no head of classes"
    if of_a_head and not timm_heads.is_projection(state, of_a_head):
        what = f"its head is of {timm_heads.layers(state, of_a_head)}, which fna does not run"
    return f"; {what}, all else fits: give model.num_classes=0 model.classes=null"


def _with_biases(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> str:
    """timm's other name of the same network with biases in q and v, where those are all that finds no place."""
    import timm

    more = [key for key in state if key not in expected]
    found = timm.list_models(f"{name.split('.')[0]}_qkvb") if all(key.endswith(QKV_BIAS) for key in more) and more else []
    return found[0] if found else ""


def _pooling_remedy(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """For a last LayerNorm that stands before pooling, where timm's network of that name has it after: both ways are possible."""
    if {*expected} - {*state} == {"cls_token"} and "norm.weight" in state:
        return "; it has no class token: say how it pools with model.pool=avg (or max, avgmax)"
    apart = {name.rpartition(".")[0] for name in {*expected} ^ {*state}}
    if apart == {"norm", "fc_norm"} and "norm.weight" in state:
        return "; its last LayerNorm comes before pooling: say how it pools with model.pool=token or model.pool=avg"
    return ""


def _instead(better: str | None) -> str:
    return f"; this looks like {better}: give model.name={better}" if better else ""


def looks_like(state: Mapping[str, Tensor], name: str) -> str | None:
    """A model of timm's that these tensors fit, head and positions apart, as like ``name`` as there is; None if none is found."""
    import timm

    patch = state.get(PATCHES)
    if patch is None or patch.dim() != 4 or patch.shape[0] not in SIZES:
        return None
    size, side, table = SIZES[patch.shape[0]], patch.shape[-1], state.get(TABLE)
    patterns = dict.fromkeys(pattern for sign, pattern in FAMILIES.items() if sign in state)
    wanted = [other for pattern in (*patterns, "vit_{}_patch{}_*") for other in timm.list_models(pattern.format(size, side))]
    plain = name.split(".")[0]
    ending = plain.split("_patch")[-1].partition("_")[2]
    pixels = "_" if table is None or table.dim() != 3 else f"_{math.isqrt(table.shape[1]) * side}"

    def distance(other: str) -> tuple[bool, bool, float]:
        alike = difflib.SequenceMatcher(None, other.split("_patch")[-1].partition("_")[2], ending).ratio()
        return other.startswith("vit_"), not other.endswith(pixels), -alike

    tried = sorted((other for other in wanted if other != plain), key=distance)[:TRIED]
    return next((other for other in tried if takes(other, state)), None)


def takes(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a network of timm's has a place for all of the tensors, heads apart, at the size of their position table."""
    import timm

    with torch.device("meta"):
        net: Any = timm.create_model(name, num_classes=0)
    expected = net.state_dict()
    own, table = expected.get(TABLE), state.get(TABLE)
    if not hasattr(getattr(net, "patch_embed", None), "grid_size"):
        return False
    if own is not None and table is not None and own.shape != table.shape:
        prefix = own.shape[1] - math.prod(net.patch_embed.grid_size)
        if table.dim() != 3 or table_grid(table.shape[1], prefix, None) is None:
            return False
    return (own is None) == (table is None) and not weights.misfit(trunk(expected), trunk(state))
