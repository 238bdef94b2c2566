"""One conversation with a decoder of transformers whose cache a policy keeps: what runs behind our entries in the library's tables.

The attention table's entry sees queries, keys and values of any family after its rotary embedding, hands them to what the model ran
before, and shows them to the policy. The mask table's leaves the prompt's mask to the model; later forwards get one from each
layer's own entries, because transformers makes one mask for all layers, from the length of the first.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fna.errors import UserError
from fna.kv.contract import Attending, LayerState, Prompt, Stepping
from fna.surgery.cache_layer import KeptCache, KeptLayer
from fna.surgery.renumber import Rotary, renumbered

NAME = "fna_kept"
_SESSION = "_fna_kept"


class Session:
    """One conversation: who is asked, about what, and the cache that it fills."""

    def __init__(self, policy: Any, chosen: frozenset[int], cache: KeptCache, prompt: Prompt | None, stock: str) -> None:
        self.policy, self.chosen, self.cache, self.prompt, self.stock = policy, chosen, cache, prompt, stock
        self.depth = len(cache.kept)
        self.told: Callable[[LayerState], None] | None = None  # who else wants to know each layer's state after the prompt
        self.rotary: Rotary | None = None  # where positions are renumbered
        self.acted = False  # whether the policy changed attention anywhere
        self.hidden: Tensor | None = None  # what entered the block that runs, where the policy wants to see it

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
        if getattr(self.policy, "sees_hidden", False):
            for block in decoder.layers:  # type: ignore[union-attr]
                undo.callback(block.register_forward_pre_hook(self._enter, with_kwargs=True).remove)

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.hidden = args[0] if args else kwargs["hidden_states"]

    def run(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **kwargs: Any) -> tuple[Tensor, Any]:
        """The attention of one layer, and what the policy makes of its entries."""
        index = int(module.layer_idx)  # type: ignore[arg-type]
        layer: KeptLayer = self.cache.kept[index]
        if k is not layer.keys:
            raise UserError("kv: a forward ran without the cache of this context; pass past_key_values=cache, and use_cache=True.")
        if layer.complete:
            if mask is not None and mask.dim() == 4:
                raise UserError("kv: a 4-D attention mask does not know which entries are left; give a 2-D one.")
            mask = self.fit(layer.mask(q.shape[2], q.shape[1], q.dtype))
        scale = float(kwargs.get("scaling") or q.shape[-1] ** -0.5)
        own = self._attend(index, layer, q, scale)
        out = self._stock(module)(module, q, k, v, mask, **kwargs) if own is None else (own.transpose(1, 2).contiguous(), None)
        self._ask(index, layer, q, scale)
        return out

    def _attend(self, index: int, layer: KeptLayer, q: Tensor, scale: float) -> Tensor | None:
        """The attention ``[B, H, Q, d]`` as the policy has it; None: as the model does."""
        if index not in self.chosen or not isinstance(self.policy, Attending):
            return None
        out = self.policy.attend(self._state(index, layer, q, scale, layer.answered + 1 if layer.complete else 0))
        self.acted |= out is not None
        return out

    def tell_idle(self) -> None:
        """Warn where a policy that changes attention left it alone from the prompt to the end: what ran was the model itself."""
        if isinstance(self.policy, Attending) and not self.acted and any(layer.complete for layer in self.cache.kept):
            name = type(self.policy).__name__
            warnings.warn(
                f"kv: {name} found nothing to change in a prompt, which was answered as under full attention", stacklevel=2
            )

    def _state(self, index: int, layer: KeptLayer, q: Tensor, scale: float, step: int) -> LayerState:
        if self.prompt is None:
            raise UserError("kv: a 4-D attention mask does not say which columns are padding; give a 2-D one.")
        prompt = self.prompt.repeated(len(q))
        return LayerState(q, layer.asked, layer.entries, prompt, index, self.depth, scale, step, layer.memo, self.hidden)

    def _ask(self, index: int, layer: KeptLayer, q: Tensor, scale: float) -> None:
        """Show the policy the layer's entries, at the end of the prompt and after every later forward."""
        if layer.complete:
            layer.answered += 1
        elif self.prompt is not None and layer.seen < self.prompt.valid.shape[1]:
            return  # a prompt that comes in chunks
        step, layer.complete = layer.answered, True
        ask = getattr(self.policy, "keep", None) if step == 0 else self.policy.step if isinstance(self.policy, Stepping) else None
        state = self._state(index, layer, q, scale, step)
        if self.told is not None and step == 0:
            self.told(state)
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

    def fit(self, mask: Tensor | None) -> Tensor | None:
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
