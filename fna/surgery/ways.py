"""Which seam an attention module gets: by its class where its parts are known, by the call of torch's attention in it elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fna.errors import UserError
from fna.ops.contract import Attention
from fna.surgery.by_hand import HandSeam
from fna.surgery.forward import Forward
from fna.surgery.fused import FusedSeam, OwnSeam
from fna.surgery.inherited import InheritedSeam
from fna.surgery.reads import facts
from fna.surgery.relative import RelativeSeam, SamSeam
from fna.surgery.seams import MultiheadSeam, OpenClipSeam, Seam, TimmSeam
from fna.surgery.spec import forward_key
from fna.surgery.stacks import RECIPE, attentions

SEAMS: dict[str, Callable[..., Seam]] = {
    "timm.Attention": TimmSeam,
    "timm.AttentionRope": TimmSeam,
    "timm.EvaAttention": TimmSeam,
    "timm.beit.Attention": RelativeSeam,
    "timm.RelPosAttention": RelativeSeam,
    "timm.vision_transformer_sam.Attention": SamSeam,
    "open_clip.Attention": OpenClipSeam,
    "torch.MultiheadAttention": MultiheadSeam,
}


def make_seam(run: Forward, layer: int, op: Attention, module: nn.Module, own: Callable[..., Any] | None = None) -> Seam:
    """The seam for one attention module, ``own`` where somebody brought it.

    Raises `UserError` for an unknown make or one that another tool has patched.
    """
    if "forward" in vars(module):
        raise UserError(f"block {layer}: another tool has already replaced the forward of its attention; remove that first.")
    if own is not None:
        return OwnSeam(run, layer, op, module, own)
    key = forward_key(module)
    if key in SEAMS:
        return SEAMS[key](run, layer, op, module)
    if facts(module).fused and getattr(module, "fused_attn", True):
        return FusedSeam(run, layer, op, module)
    if facts(module).by_hand:
        return HandSeam(run, layer, op, module)
    if isinstance(module, nn.MultiheadAttention):
        return InheritedSeam(run, layer, op, module)
    # Somebody's wrapper, such as an adapter, runs as it is round the attention in it.
    if not facts(module).softmax and len(inside := attentions(module)) == 1 and inside[0]:
        return make_seam(run, layer, op, module.get_submodule(inside[0]))
    raise UserError(f"block {layer}: attention of class {key} is unknown to fna, and not torch's own; use {RECIPE}.")
