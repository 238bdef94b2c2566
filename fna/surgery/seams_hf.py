"""The way in for transformers: one function in its attention table, one in its mask table, under one name.

Attention modules look their function up by ``config._attn_implementation``. The tower gets a copy of its config with our name in
it (the original may be shared with another model); a port on every submodule of a chosen block says which op to run, and a module
without one runs what the original config names. Registering under our name in both tables at import changes no model.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fna.errors import UserError
from fna.ops.contract import Attention
from fna.surgery.blocks import Tower
from fna.surgery.forward import Forward
from fna.surgery.fused import relative
from fna.surgery.seams import Port, mask_fields

NAME = "fna"
_PORT = "_fna_port"
_STOCK = "_fna_stock"
# The names of the plain patterns; early releases have no full one, for want of a use.
_PLAIN = ("causal_mask_function", "bidirectional_mask_function")
# What the table's functions are handed in some models and ours could only drop.
_UNKNOWN = ("softcap", "position_bias", "s_aux", "cache", "block_table")


class TablePort(Port):
    """A port on modules that look their function up in the table."""

    def unseen(self, block: nn.Module) -> str:
        own: list[Any] = [module for module in block.modules() if vars(module).get(_PORT) is self]
        set_since = {module.config._attn_implementation for module in own} - {NAME}
        if not set_since:
            return super().unseen(block)
        return (
            f"block {self.layer} ({type(block).__name__}) runs attention '{set_since.pop()}', as set_attn_implementation set it "
            "since fna.swap was called: call that before fna.swap, not inside the with block."
        )


def install_table(
    tower: Tower, plan: Mapping[int, Attention], run: Forward, set_: Callable[[Any, str, Any], None]
) -> dict[int, Port]:
    """Point the tower at our table entry and put ports on the chosen blocks; ``set_`` sets an attribute that can be undone."""
    configs: dict[int, Any] = {id(module.config): module.config for calls in tower.calls for module in calls}
    for config in configs.values():
        if config._attn_implementation != NAME:  # else another tower of the same settings is changed already
            changed, stock = copy.copy(config), config._attn_implementation or "sdpa"
            vars(changed)["_attn_implementation_internal"] = NAME
            for module in tower.module.modules():
                if vars(module).get("config") is config:
                    set_(module, "config", changed)
                    set_(module, _STOCK, stock)  # not in the config, which may be saved
    ports: dict[int, Port] = {layer: TablePort(run, layer, op) for layer, op in plan.items()}
    for layer, port in ports.items():
        for module in tower.calls[layer]:
            set_(module, _PORT, port)
    return ports


def table_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The attention table's entry: query ``[B, H, Nq, d]``, key and value ``[B, H or groups, Nk, d]`` -> ``[B, Nq, H, d]``.

    ``attention_mask``: None, bool ``[B, Nk]`` from `padding_mask`, or 4-D where that could not do with less.
    """
    causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
    port: Port | None = vars(module).get(_PORT)
    if port is None or port.run.frame.stock:
        if port is not None:
            port.run.frame.seen = True
        return _stock(module, query, key, value, attention_mask, scaling, dropout, causal, **kwargs)
    if _weights_asked(module, kwargs):
        # transformers leaves out what is None: the weights of the other blocks would stand in wrong places.
        raise UserError(
            f"output_attentions: block {port.layer} is changed by fna and has no attention weights to give; "
            "leave output_attentions out, or restore the swap first."
        )
    if extra := [name for name in _UNKNOWN if kwargs.get(name) is not None]:
        raise UserError(f"block {port.layer} ({type(module).__name__}) needs {', '.join(extra)} in its attention, which fna lacks.")
    fields: dict[str, Any] = {}
    # A 4-D mask holds causality already. One query at the end of a cache sees every key.
    if causal and query.shape[2] > 1 and (attention_mask is None or attention_mask.dim() == 2):
        fields = {"causal": True, "q_offset": key.shape[2] - query.shape[2]}
    if attention_mask is not None and attention_mask.dim() == 2:
        fields["keys"] = attention_mask.bool()
    else:
        fields |= relative(mask_fields(attention_mask, query), query, key)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = port.attend(query, key, value, scale=scale, dropout=dropout, **fields)
    return out.transpose(1, 2).contiguous(), None


def _weights_asked(module: nn.Module, kwargs: Mapping[str, Any]) -> bool:
    """Whether attention weights are wanted: by the call, the config or, where blocks are not told (SigLIP), the collector."""
    if kwargs.get("output_attentions", getattr(module.config, "output_attentions", False)):
        return True
    collector = getattr(sys.modules.get("transformers.utils.output_capturing"), "_active_collector", None)
    return collector is not None and "attentions" in (collector.get() or ())


def padding_mask(
    *, batch_size: int, kv_length: int, mask_function: Callable[..., Any], attention_mask: Tensor | None = None, **rest: Any
) -> Tensor | None:
    """The mask table's entry: which keys are not padding, bool ``[B, Nk]``, None if all are.

    transformers takes a name that is missing here for "needs no mask" and drops the padding in silence. Its own `sdpa_mask` would
    build ``[B, 1, N, N]``; that is still made where the pattern is neither full nor plainly causal, or the cache longer than what
    it holds.
    """
    positions = rest.get("cache_position")  # up to release 4; q_length and q_offset since
    queries = rest["q_length"] if positions is None else len(positions)
    offset = rest.get("q_offset", 0) if positions is None else positions[0]
    plain = any(mask_function is getattr(masking_utils, name, None) for name in _PLAIN)
    if not plain or rest.get("kv_offset", 0) or offset + queries != kv_length:
        rest |= {"batch_size": batch_size, "kv_length": kv_length, "mask_function": mask_function, "allow_is_causal_skip": False}
        return masking_utils.sdpa_mask(attention_mask=attention_mask, **rest)
    if attention_mask is None:
        return None
    keys = nn.functional.pad(attention_mask[:, -kv_length:].bool(), (0, max(0, kv_length - attention_mask.shape[1])))
    # Reading the mask would break a compiled graph; elsewhere it spares the ops a mask that masks nothing.
    return None if not torch.compiler.is_compiling() and not torch.jit.is_tracing() and keys.all() else keys


def _stock(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    causal: bool,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """What the module would have run had we not come, on a mask of the kind that it knows."""
    name = vars(module).get(_STOCK, "sdpa")
    eager = name == "eager"
    run = vars(sys.modules[type(module).__module__])["eager_attention_forward"] if eager else ALL_ATTENTION_FUNCTIONS[name]
    mask = _square(mask, query.shape[2], key.shape[2], causal, always=eager, device=query.device)
    if eager and mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    # A mask holds causality already, and the kernel takes only one of the two.
    causal = causal and mask is None and query.shape[2] > 1
    return run(module, query, key, value, mask, scaling=scaling, dropout=dropout, is_causal=causal, **kwargs)


def _square(mask: Tensor | None, queries: int, keys: int, causal: bool, *, always: bool, device: torch.device) -> Tensor | None:
    """A 4-D boolean mask from a row a batch, or from none where causality would be lost: ``always``, or beside a cache."""
    if mask is None and not (causal and queries > 1 and (always or keys != queries)):
        return None
    if mask is not None and mask.dim() == 4:
        return mask
    seen = torch.ones(1, keys, dtype=torch.bool, device=device) if mask is None else mask.bool()
    seen = seen[:, None, None].expand(-1, 1, queries, -1)
    return seen.tril(keys - queries) if causal else seen


AttentionInterface.register(NAME, table_attention)
AttentionMaskInterface.register(NAME, padding_mask)
