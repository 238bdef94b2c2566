"""A policy in force on a decoder of transformers: `kept` gives the cache to generate with.

    with kept(model, policy, prompt=prompt) as cache:
        model.generate(**inputs, past_key_values=cache)

The prompt attends as it always does; then the policy says, layer by layer, what is kept of it. Our entry in transformers' attention
table sees queries, keys and values of any family after its rotary embedding, hands them to what the model ran before, and shows
them to the policy. Our entry in its mask table leaves the prompt's mask to the model; later forwards get one from each layer's own
entries, because transformers makes one mask for all layers, from the length of the first. Weights and classes stay, and the end of
the context gives the model back as it was.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fna.errors import UserError
from fna.kv.contract import Attending, LayerState, Prompt, Pruning, Stepping
from fna.surgery.cache_layer import KeptCache, KeptLayer
from fna.surgery.columns import Columns
from fna.surgery.plan import Layers, parse_layers
from fna.surgery.renumber import Rotary, renumbered
from fna.surgery.sight import Sight

NAME = "fna_kept"
_SESSION = "_fna_kept"
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
        if session.columns is not None:
            session.columns.sight = Sight(model, getattr(policy, "smaller", None))
            session.columns.sight.install(undo)
        session.install(decoder, undo)
        yield session.cache


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


class Session:
    """One conversation: who is asked, about what, and the cache that it fills."""

    def __init__(self, policy: Any, chosen: frozenset[int], cache: KeptCache, prompt: Prompt | None, stock: str) -> None:
        self.policy, self.chosen, self.cache, self.prompt, self.stock = policy, chosen, cache, prompt, stock
        self.depth = len(cache.kept)
        self.columns = Columns(self) if isinstance(policy, Pruning) else None
        self.rotary: Rotary | None = None  # where positions are renumbered

    def install(self, decoder: nn.Module, undo: ExitStack) -> None:
        """Point the decoder at our table entries until ``undo`` ends."""
        config: Any = decoder.config
        changed = copy.copy(config)
        vars(changed)["_attn_implementation_internal"] = NAME
        vars(changed)[_SESSION] = self
        for module in decoder.modules():
            if vars(module).get("config") is config:
                vars(module)["config"] = changed
                undo.callback(vars(module).__setitem__, "config", config)
        if self.columns is not None:
            self.columns.install(decoder, undo)

    def run(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **kwargs: Any) -> tuple[Tensor, Any]:
        """The attention of one layer, and what the policy makes of its entries."""
        index = int(module.layer_idx)  # type: ignore[arg-type]
        layer: KeptLayer = self.cache.kept[index]
        if k is not layer.keys:
            raise UserError("kv: a forward ran without the cache of this context; pass past_key_values=cache, and use_cache=True.")
        if layer.complete:
            if mask is not None and mask.dim() == 4:
                raise UserError("kv: a 4-D attention mask does not know which entries are left; give a 2-D one.")
            mask = self._fit(layer.mask(q.shape[2], q.shape[1], q.dtype))
        scale = float(kwargs.get("scaling") or q.shape[-1] ** -0.5)
        own = None if layer.complete else self._attend(index, layer, q, scale)
        out = self._stock(module)(module, q, k, v, mask, **kwargs) if own is None else (own.transpose(1, 2).contiguous(), None)
        self._ask(index, layer, q, scale)
        return out

    def _attend(self, index: int, layer: KeptLayer, q: Tensor, scale: float) -> Tensor | None:
        """The prompt's attention ``[B, H, N, d]`` as the policy has it; None: as the model does."""
        if index not in self.chosen or not isinstance(self.policy, Attending):
            return None
        return self.policy.attend(self._state(index, layer, q, scale, 0))

    def _state(self, index: int, layer: KeptLayer, q: Tensor, scale: float, step: int) -> LayerState:
        if self.prompt is None:
            raise UserError("kv: a 4-D attention mask does not say which columns are padding; give a 2-D one.")
        prompt = self.prompt.repeated(len(q))
        return LayerState(q, layer.asked, layer.entries, prompt, index, self.depth, scale, step, layer.memo)

    def _ask(self, index: int, layer: KeptLayer, q: Tensor, scale: float) -> None:
        """Show the policy the layer's entries, at the end of the prompt and after every later forward."""
        if layer.complete:
            layer.answered += 1
        elif self.prompt is not None and layer.seen < self.prompt.valid.shape[1]:
            return  # a prompt that comes in chunks
        step, layer.complete = layer.answered, True
        ask = getattr(self.policy, "keep", None) if step == 0 else self.policy.step if isinstance(self.policy, Stepping) else None
        state = self._state(index, layer, q, scale, step)
        if self.columns is not None and step == 0:
            self.columns.before = state
        if ask is not None and index in self.chosen and (found := ask(state)) is not None:
            layer.put(found if self.rotary is None else renumbered(found, state.entries, self.rotary), state.entries)

    def mask(self, attention_mask: Tensor | None, batch_size: int, q_length: int, **rest: Any) -> Any:
        """The prompt's mask as the model makes it; afterwards nothing, once the layers know which new tokens are padding."""
        first, device = self.cache.get_seq_length(), rest["device"]
        complete = self.cache.kept[0].complete
        new = None if attention_mask is None else attention_mask[:, first : first + q_length].bool()
        if self.prompt is None:
            self.prompt = Prompt.middle(torch.ones(batch_size, q_length, dtype=torch.bool, device=device) if new is None else new)
        new = None if new is None or bool(new.all()) else new
        for layer in self.cache.kept:
            layer.new, layer.columns = new, None
        if complete:
            return None
        make = ALL_MASK_ATTENTION_FUNCTIONS[self.stock]
        return make(attention_mask=attention_mask, batch_size=batch_size, q_length=q_length, **rest)

    def _stock(self, module: nn.Module) -> Any:
        """What the module ran before."""
        if self.stock == "eager":
            return vars(sys.modules[type(module).__module__])["eager_attention_forward"]
        return ALL_ATTENTION_FUNCTIONS[self.stock]

    def _fit(self, mask: Tensor | None) -> Tensor | None:
        """A mask of the kind that the model's own attention knows: eager adds it."""
        if mask is None or mask.dtype != torch.bool or self.stock != "eager":
            return mask
        return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)


def table_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    """The attention table's entry."""
    return vars(module.config)[_SESSION].run(module, query, key, value, attention_mask, **kwargs)


def table_mask(*, config: Any, attention_mask: Tensor | None = None, **rest: Any) -> Any:
    """The mask table's entry."""
    return vars(config)[_SESSION].mask(attention_mask, config=config, **rest)


AttentionInterface.register(NAME, table_attention)
AttentionMaskInterface.register(NAME, table_mask)
