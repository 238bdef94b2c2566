"""Networks that were made with timm's own options: which ones, as the tensors of a checkpoint file show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fna.models import timm_files, weights
from fna.models.settings import Grid, table_grid
from fna.values import counted

Options = dict[str, Any]
# An option of timm's VisionTransformer -> the tensor that a network has where it is on; those of a block are in each.
SIGNS = {
    "class_token": "cls_token",
    "pre_norm": "norm_pre.weight",
    "qkv_bias": "blocks.0.attn.qkv.bias",
    "qk_norm": "blocks.0.attn.q_norm.weight",
    "init_values": "blocks.0.ls1.gamma",
}
REGISTERS, HIDDEN = "reg_token", "blocks.0.mlp.fc1.weight"
LAYER_SCALE = 1e-5  # what training starts from; the file's own are loaded over it


def options(
    net: Any, state: Mapping[str, Tensor], name: str, known: Options, asked: Grid | None, made: Callable[..., Any]
) -> Options:
    """What ``net``, timm's ``name``, has to be built with beside ``known`` to take the tensors ``state``; empty where it takes them
    as it is, and where they leave a doubt.

    ``asked``: (rows, columns) of patches at the size that was asked for. ``made``: options to a network. In doubt is a network of
    another class than timm's VisionTransformer, a file that timm has another name for, a network without a class token of which
    nobody says how it pools, and what would not fit even so.
    """
    if not _is_plain(net, state):
        return {}
    found = _shown(net.state_dict(), state)
    readings = _readings(net, state, asked)
    if readings and readings[0] != net.no_embed_class:
        found["no_embed_class"] = readings[0]
    unpooled = "cls_token" not in state and known.get("global_pool", net.global_pool) == "token"
    if not found or unpooled or timm_files.looks_like(state, name):
        return {}
    with torch.device("meta"):
        would = made(**known, **found)
    return {} if weights.misfit(timm_files.trunk(would.state_dict()), timm_files.trunk(state)) else found


def _is_plain(net: Any, state: Mapping[str, Tensor]) -> bool:
    """Whether a network is timm's VisionTransformer itself, and it and the tensors have a position table."""
    from timm.models.vision_transformer import VisionTransformer

    table = state.get(timm_files.TABLE)
    return type(net) is VisionTransformer and net.pos_embed is not None and table is not None and table.dim() == 3


def _shown(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Options:
    """The options that names and shapes of ``state`` show to be others than those of a network with the tensors ``own``."""
    found: Options = {key: sign in state for key, sign in SIGNS.items() if (sign in state) != (sign in own)}
    if "init_values" in found:
        found["init_values"] = LAYER_SCALE if found["init_values"] else None
    if (count := _registers(state)) != _registers(own):
        found["reg_tokens"] = count
    wanted, hidden = own.get(HIDDEN), state.get(HIDDEN)
    if wanted is not None and hidden is not None and hidden.shape[0] != wanted.shape[0]:
        rows, width = hidden.shape[0], wanted.shape[1]
        # timm rounds down, as floats do now and then
        found["mlp_ratio"] = rows / width if int(width * (rows / width)) == rows else (rows + 0.5) / width
    return found


def _registers(state: Mapping[str, Tensor]) -> int:
    return state[REGISTERS].shape[1] if REGISTERS in state and state[REGISTERS].dim() == 3 else 0


def _readings(net: Any, state: Mapping[str, Tensor], asked: Grid | None) -> list[bool]:
    """Whether the position table may be one of patches alone (``no_embed_class``), the network's own way first; empty where it is
    the network's own table, where no token stands before the patches, and where neither makes a grid."""
    rows, prefix = state[timm_files.TABLE].shape[1], int("cls_token" in state) + _registers(state)
    if not prefix or (rows == net.pos_embed.shape[1] and prefix == net.num_prefix_tokens):
        return []
    return [bare for bare in (net.no_embed_class, not net.no_embed_class) if table_grid(rows, 0 if bare else prefix, asked)]


def note(path: str, found: Options) -> str:
    """That a network was built with other options than timm's of that name; empty where it was not."""
    said = [f"{key}={_value(key, value)}" for key, value in found.items()]
    return f"built with {', '.join(said)}, as the tensors of {path} show" if said else ""


def _value(key: str, value: Any) -> str:
    if key == "init_values" and value is not None:  # what it was is past: its tensors have been trained
        return "..."
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def doubt(path: str, net: Any, state: Mapping[str, Tensor], asked: Grid | None) -> str:
    """That the position table of the network as built may be read in two ways; empty where there is one."""
    if not _is_plain(net, state) or len(_readings(net, state, asked)) < 2:
        return ""
    rows, prefix = state[timm_files.TABLE].shape[1], net.num_prefix_tokens
    ways = {bare: table_grid(rows, 0 if bare else prefix, asked) for bare in (True, False)}
    alone, beside = ("x".join(map(str, ways[bare] or ())) for bare in (True, False))
    said = [f"{alone} patches alone", f"{beside} beside {counted(prefix, 'token')}"]
    taken, other = said if net.no_embed_class else said[::-1]
    return f"{path}: its position table of {rows} rows is read as one of {taken}; it may be one of {other}, which it does not say"
