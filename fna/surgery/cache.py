"""A policy in force on a decoder of transformers: `kept` gives the cache to generate with.

    with kept(model, policy, prompt=prompt) as cache:
        model.generate(**inputs, past_key_values=cache)

The prompt attends as it always does; then the policy says, layer by layer, what is kept of it (`fna.surgery.session`). Weights and
classes stay, and the end of the context gives the model back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache

from fna.errors import UserError
from fna.kv.contract import Prompt, Pruning
from fna.surgery.cache_layer import KeptCache, KeptLayer
from fna.surgery.columns import Columns
from fna.surgery.plan import Layers, parse_layers
from fna.surgery.renumber import Rotary
from fna.surgery.session import Session
from fna.surgery.sight import Sight

SUPPORTED = ("sdpa", "eager", "fna")
UNSUPPORTED = ("cache_implementation", "assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


@contextmanager
def kept(model: nn.Module, policy: Any, layers: Layers | None = None, prompt: Prompt | None = None) -> Iterator[Cache]:
    """``policy`` in force in the chosen blocks of ``model``'s decoder. The cache is for one prompt (or batch) and its turns.

    ``layers``: None for those that the policy names, all where it names none.
    ``prompt``: None for a text-only model whose middle is what may be compressed. ``policy`` None: transformers' own cache, and
    nothing is changed. Raises `UserError` for a decoder that cannot do it (`check_policy`).
    """
    check_policy(model, policy)
    decoder = find_decoder(model)
    if policy is None:
        yield DynamicCache(config=decoder.config)
        return
    if prompt is None and image_token(model) is not None:
        raise UserError("kv: say which tokens of the prompt are the image: prompt=read_prompt(model, **inputs).")
    chosen = parse_layers(getattr(policy, "layers", "all") if layers is None else layers, len(decoder.layers), "kv.layers")
    session = Session(policy, frozenset(chosen), KeptCache(len(decoder.layers)), prompt, decoder.config._attn_implementation)
    session.rotary = rotary_of(decoder, policy)
    with ExitStack() as undo:
        session.install(decoder, undo)
        if isinstance(policy, Pruning):
            Columns(session, Sight(model, getattr(policy, "smaller", None))).install(decoder, undo)
        yield session.cache
        session.tell_idle()


def read_prompt(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: Any) -> Prompt:
    """Which tokens are the image's, by the placeholder in ``input_ids``; the middle of the text for a model without eyes."""
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    token = image_token(model)
    return Prompt.middle(valid) if token is None else Prompt((input_ids == token) & valid, valid)


def prompt_bytes(cache: Cache, valid: Tensor) -> list[float]:
    """Bytes of keys and values that ``cache`` holds of each row's prompt, of which ``valid`` ``[B, P]`` is no padding."""
    rows = valid.shape[0]
    held = torch.zeros(rows, dtype=torch.float64, device=valid.device)
    for layer in cache.layers:
        keys: Any = layer.parts["k"].view if isinstance(layer, KeptLayer) else vars(layer)["keys"]
        count: Any = valid.sum(1) * keys.shape[1]
        if isinstance(layer, KeptLayer):
            entries = layer.entries
            early = entries.positions < valid.shape[1]
            count = (early if entries.valid is None else early & entries.valid).sum((1, 2))
        held += 2 * count * keys.shape[-1] * keys.element_size()
    return held.tolist()


def image_token(model: nn.Module) -> int | None:
    """The placeholder that stands for each image token in the ids; None for a model without eyes."""
    config: Any = model.config
    found = [getattr(config, name, None) for name in ("image_token_id", "image_token_index")]
    return next((int(token) for token in found if token is not None), None)


def find_decoder(model: Any) -> Any:
    """The causal decoder of ``model``, the one in a vision-language model included. Raises `UserError` where there is none."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    decoder = getattr(decoder, "language_model", decoder)
    blocks = getattr(decoder, "layers", None)
    if not isinstance(blocks, nn.ModuleList) or not all(hasattr(block, "self_attn") for block in blocks):
        raise UserError(
            f"kv: {type(model).__name__} has no causal decoder of transformers; kv policies work on Llama-like decoders."
        )
    return decoder


def check_decoder(config: Any) -> None:
    """Raise `UserError` for a decoder whose cache is not one plain list of all tokens: to be asked before weights are loaded."""
    config = config.get_text_config(decoder=True)
    kinds = sorted(set(getattr(config, "layer_types", None) or []) - {"full_attention"})
    if kinds or (getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)):
        told = ", ".join(kinds) or f"a sliding window of {config.sliding_window}"
        raise UserError(
            f"kv: this {config.model_type} has {told}; kv policies work where every layer sees all tokens: use kv=none."
        )
    name = config._attn_implementation
    if name is not None and name not in SUPPORTED:
        raise UserError(f"kv: attention {name} takes no mask of a layer's own; load the model with attn_implementation=sdpa.")


def check_policy(model: nn.Module, policy: Any) -> None:
    """Raise `UserError` where ``model``'s decoder cannot be under ``policy``: its layers, its positions, the blocks it names."""
    decoder = find_decoder(model)
    check_decoder(decoder.config)
    rotary_of(decoder, policy)
    if hasattr(policy, "check"):
        policy.check(len(decoder.layers))
    parse_layers(getattr(policy, "layers", "all"), len(decoder.layers), "kv.layers")


def rotary_of(decoder: Any, policy: Any) -> Rotary | None:
    """What turns the keys of ``decoder`` where ``policy`` renumbers positions. Raises `UserError` where they cannot be turned."""
    return Rotary(decoder) if getattr(policy, "positions", "original") == "renumbered" else None


def check_generation(**options: Any) -> None:
    """Raise `UserError` for an option of ``generate`` that a compressed cache cannot serve."""
    for name in UNSUPPORTED:
        if options.get(name) is not None:
            raise UserError(
                f"{name}={options[name]}: a compressed cache grows by what is generated only; leave it out, or use kv=none."
            )
