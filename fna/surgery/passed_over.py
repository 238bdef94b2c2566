"""What torch's fast path of `nn.TransformerEncoderLayer` passes over: modules in the layer's places that it never calls.

In eval mode such a layer runs as one operator on the weights of its parts. An adapter round ``linear1`` (peft's LoRA), or another
activation put in after the layer was made, is then not called, without a word
(findings/peft_adapter_that_acts_in_training_alone.sh). A block that fna has changed is hooked, and therefore calls its parts: the
adapter would act in changed blocks alone, and full attention would be of another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from fna.errors import UserError

PLAIN: dict[str, tuple[type[nn.Module], ...]] = {
    "linear1": (nn.Linear,),
    "linear2": (nn.Linear,),
    "norm1": (nn.LayerNorm,),
    "norm2": (nn.LayerNorm,),
    "self_attn": (nn.MultiheadAttention,),
    "self_attn.out_proj": (nn.Linear, NonDynamicallyQuantizableLinear),
}
ACTIVATIONS = {1: (F.relu, nn.ReLU), 2: (F.gelu, nn.GELU)}  # by the layer's own flag, which the operator goes by


def refuse_passed_over(blocks: Sequence[nn.Module]) -> None:
    """Raise `UserError` where torch's fast path is on and passes over a part of a block; the first is told, with its class."""
    if not torch.backends.mha.get_fastpath_enabled():
        return
    for number, block in enumerate(blocks):
        for name, part in _passed_over(block):
            kind = type(part)
            raise UserError(
                f"block {number}: in eval mode torch's fast path passes over {name} ({kind.__module__}.{kind.__name__}), which "
                "changed blocks do call: full attention would be of another model. Call "
                "torch.backends.mha.set_fastpath_enabled(False) first, or merge what was added into the weights."
            )


def _passed_over(block: nn.Module) -> Iterator[tuple[str, object]]:
    """The parts of ``block`` that are not what the operator takes them for; none where the layer would not go by it."""
    if not isinstance(block, nn.TransformerEncoderLayer) or not _goes_fast(block):
        return
    for name, kinds in PLAIN.items():
        part = block.get_submodule(name)
        if type(part) not in kinds or "forward" in vars(part):
            yield name, part
    function, kind = ACTIVATIONS[block.activation_relu_or_gelu]
    if block.activation is not function and type(block.activation) is not kind:
        yield "activation", block.activation


def _goes_fast(block: nn.TransformerEncoderLayer) -> bool:
    """Whether the layer, as it was made, goes by the fast path in eval mode."""
    attention = block.self_attn
    own = type(block).forward is nn.TransformerEncoderLayer.forward and "forward" not in vars(block)
    made = getattr(attention, "batch_first", False) and getattr(attention, "in_proj_bias", None) is not None
    return bool(own and made and block.activation_relu_or_gelu) and attention.num_heads % 2 == 0
