"""Where q, k and v are handed over: one seam for each make of attention module in timm and open_clip.

A seam shadows ``forward`` on one module: project, split heads, call the op, merge heads, project out. Weights, names and classes
stay. It is an object, not a closure: a deepcopy or a pickle of the model then carries a seam that holds the copy's weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fna.errors import UserError
from fna.ops.bias import PairBias
from fna.ops.contract import Attention, Projections, Site, Tokens, absorbing, called, no_clock, recorded, whole
from fna.surgery.forward import Call, Forward, Frame
from fna.surgery.projections import multihead_projections, timm_projections, untouched
from fna.surgery.stacks import RECIPE


class Port:
    """The way from one block to its op: fills in the site and notes that it was used."""

    def __init__(self, run: Forward, layer: int, op: Attention) -> None:
        self.run = run
        self.layer = layer
        self.op = op

    def enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the block; its first argument is the residual stream."""
        self.run.enter(self.layer, args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()))))

    def leave(self, block: nn.Module, args: Any, output: Any) -> None:
        """Hook of the block: one that never handed over its q, k and v would silently be measured as if it had."""
        if not self.run.leave(output):
            raise UserError(self.unseen(block))

    def unseen(self, block: nn.Module) -> str:
        """What is said of a block that ran and never handed over its q, k and v."""
        return (
            f"block {self.layer} ({type(block).__name__}) ran without calling its attention through fna, but in a way that fna "
            f"does not follow, such as F.multi_head_attention_forward; leave it out of layers=, or use {RECIPE}."
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, dropout: float = 0.0, **fields: Any) -> Tensor:
        """The op on q ``[B, H, Nq, d]``, k and v ``[B, H or groups, Nk, d]``; ``fields`` are the site's masks: ``[B, H, Nq, d]``.

        Grouped k and v are repeated for ops that do not say ``grouped``.
        """
        if dropout:
            raise UserError(f"block {self.layer} drops attention weights at random: fna is for inference, call model.eval() first.")
        frame = self.run.frame
        frame.seen = True
        self.run.called.add(self.layer)
        count = whole(k.shape[-2])
        tokens = self.run.layout(frame, count)
        self._check(tokens, count, fields.get("dense"))
        hidden = frame.hidden
        if hidden is not None and hidden.shape[:2] != (k.shape[0], count):
            hidden = None  # these are windows, the stream is not
        if tokens.bias is not None:
            fields["key_bias"] = tokens.bias if fields.get("key_bias") is None else tokens.bias + fields["key_bias"]
        site = self._site(frame, tokens, scale=scale, hidden=hidden, **fields)
        if not getattr(self.op, "grouped", False):
            k, v = expand_heads(k, v, q.shape[1])
        # Under autocast a norm may leave q and k in float32 beside a half-precision v; stock attention then casts them too.
        q, k = q.to(v.dtype), k.to(v.dtype)
        frame.call = Call(q, k, site) if self.run.reduced and not frame.aside else None
        out = called(self.op, q, k, v, site)
        self.run.check_again(frame, self.layer)
        return out

    def absorb(self, x: Tensor, around: Projections | None, scale: float) -> Tensor | None:
        """What the attention and the layers ``around`` it make of ``x`` ``[B, N, D]``, ``[B, N, D]``, in one: where the op can do
        so here and nobody looks at q and k; else None, and nothing has happened.
        """
        take, frame = absorbing(self.op), self.run.frame
        if take is None or around is None or (self.run.reduced and not frame.aside) or recorded() or not untouched():
            return None
        tokens = self.run.layout(frame, x.shape[1])
        self._check(tokens, x.shape[1], None)
        out = take(x, around, self._site(frame, tokens, scale=scale)) if tokens.bias is None else None
        if out is not None:
            frame.seen = True
            self.run.called.add(self.layer)
        return out

    def _site(self, frame: Frame, tokens: Tokens, **fields: Any) -> Site:
        clock = no_clock if frame.aside else self.run.clock  # a look-ahead is timed as a whole
        return Site(layer=self.layer, depth=self.run.depth, tokens=tokens, memo=frame.memo, clock=clock, **fields)

    def _check(self, tokens: Tokens, count: int, dense: Tensor | PairBias | None) -> None:
        """Raise `UserError` for fewer tokens than prefix tokens, and for relative positions of other tokens than these."""
        if count < tokens.prefix:
            raise UserError(f"prefix={tokens.prefix}: block {self.layer} holds {count} tokens only; give a smaller prefix.")
        if dense is not None and not isinstance(dense, Tensor) and dense.tokens != count:
            raise UserError(
                f"block {self.layer} has relative positions of {dense.tokens} tokens and holds {count}: they do not follow tokens "
                "that are merged, dropped or appended; leave out reduce= and registers."
            )


class Seam(Port, ABC):
    """A port whose ``forward`` stands in for that of one attention module.

    ``unheard``: the path of what the module hands its weights to where it makes them, which its seam does not call.
    """

    unheard: ClassVar[str | None] = None

    def __init__(self, run: Forward, layer: int, op: Attention, module: nn.Module) -> None:
        super().__init__(run, layer, op)
        self.module: Any = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block calls instead of the module's own forward, with the same arguments and result."""
        frame = self.run.frame
        if frame.stock:
            frame.seen = True
            return type(self.module).forward(self.module, *args, **kwargs)
        self._tell_hooks()
        return self.changed(*args, **kwargs)

    def enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """As any port; copies that `nn.DataParallel` makes of a block would run on the original's weights."""
        if getattr(block, "_is_replica", False):
            raise UserError(
                "nn.DataParallel runs copies of the model, which a swap does not follow: use one device, or "
                "nn.parallel.DistributedDataParallel."
            )
        super().enter(block, args, kwargs)

    def _tell_hooks(self) -> None:
        """Warn of hooks that wait for attention weights: what they gather lacks the changed blocks."""
        m = self.module
        part = None if self.unheard is None or getattr(m, "fused_attn", False) else getattr(m, self.unheard, None)
        if part is not None and (part._forward_hooks or part._forward_pre_hooks):
            self.run.tell(
                "hooks",
                f"block {self.layer} is changed by fna and makes no attention weights: the hook on its {self.unheard} is not "
                "called, nor are those of other changed blocks, and what they gather lacks these blocks.",
            )

    @abstractmethod
    def changed(self, *args: Any, **kwargs: Any) -> Any:
        """The family's way through the op."""


class TimmSeam(Seam):
    """timm ``Attention``, ``AttentionRope`` and ``EvaAttention``: qk-norm, rotary positions, grouped heads, inner norm, gate."""

    unheard = "attn_drop"

    def changed(self, x: Tensor, *, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """``x`` ``[B, N, D]`` -> ``[B, N, D]``; boolean masks are True where a key may be seen.

        By keyword only: the classes differ in the order of these arguments, and their blocks always name them.
        """
        m = self.module
        plain = rope is None and attn_mask is None and not is_causal
        if plain and (out := self.absorb(x, timm_projections(m), softmax_scale(m, m.head_dim))) is not None:
            return m.proj_drop(out)
        q, k, v = project(m, x)
        q, k = m.q_norm(q), m.k_norm(k)
        if rope is not None:
            q, k = self.rotate(q, rope), self.rotate(k, rope)
        masks = mask_fields(attn_mask, q)
        q, scale = scaled(m, q)
        out = self.attend(q, k, v, scale=scale, dropout=dropped(m), causal=is_causal, **masks)
        out = m.norm(merge_heads(out))
        if getattr(m, "gate", None) is not None:
            out = out * m.gate(x).sigmoid()
        return m.proj_drop(m.proj(out))

    def rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        """Rotary positions on the patches, none on the prefix."""
        from timm.layers import apply_rot_embed_cat

        m = self.module
        head, tail = x[:, :, : m.num_prefix_tokens], x[:, :, m.num_prefix_tokens :]
        turned = apply_rot_embed_cat(tail, rope, half=getattr(m, "rotate_half", False))
        return torch.cat([head, turned], dim=2).to(x.dtype)


class OpenClipSeam(Seam):
    """open_clip's own ``Attention``: qk-norm, cosine logits, head scales, inner norm."""

    def changed(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """``x`` ``[B, N, D]`` -> ``[B, N, D]``; boolean masks are True where a key may NOT be seen."""
        m = self.module
        q, k, v = (split_heads(part, m.num_heads) for part in F.linear(x, m.in_proj_weight, m.in_proj_bias).chunk(3, dim=-1))
        scale = m.scale
        if m.logit_scale is not None:
            # The learned temperature is one number a head, the site has room for one a call: it goes into q.
            q = F.normalize(q, dim=-1) * m.logit_scale.clamp(max=m.logit_scale_max).exp()
            k, scale = F.normalize(k, dim=-1), 1.0
        dropout = m.attn_drop.p if m.training else 0.0
        masks = mask_fields(attn_mask, q, true_is_seen=False)
        out = self.attend(m.ln_q(q), m.ln_k(k), v, scale=scale, dropout=dropout, **masks)
        if m.head_scale is not None:
            out = out * m.head_scale
        return m.out_drop(m.out_proj(m.ln_inner(merge_heads(out))))


class MultiheadSeam(Seam):
    """``nn.MultiheadAttention`` in self-attention, batch first or sequence first; cross-attention passes through untouched."""

    def __init__(self, run: Forward, layer: int, op: Attention, module: nn.MultiheadAttention) -> None:
        super().__init__(run, layer, op, module)
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise UserError(f"block {layer}: nn.MultiheadAttention with kdim, vdim, bias_kv or add_zero_attn cannot be changed.")

    def changed(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """``query`` ``[B, N, D]`` (or ``[N, B, D]``) -> (the same shape, no weights); boolean masks are True where NOT seen."""
        m = self.module
        if query is not key or key is not value:
            raise UserError(
                f"block {self.layer} calls its attention on three tensors, as cross-attention does, which fna does not give: for "
                "self-attention hand over one, attn(x, x, x)."
            )
        if need_weights:
            raise UserError(
                f"block {self.layer} asks its attention for weights, as nn.MultiheadAttention gives them unasked, which fna does "
                "not: call it with need_weights=False."
            )
        if query.dim() == 2:  # one sequence [N, D]
            one = query.unsqueeze(0 if m.batch_first else 1)
            padding = None if key_padding_mask is None else key_padding_mask[None]
            return self.changed(one, one, one, padding, False, attn_mask, is_causal=is_causal)[0].view(query.shape), None
        x = query if m.batch_first else query.transpose(0, 1)
        if key_padding_mask is None and attn_mask is None and not is_causal:
            out = self.absorb(x, multihead_projections(m), m.head_dim**-0.5)
            if out is not None:
                return (out if m.batch_first else out.transpose(0, 1)), None
        q, k, v = (split_heads(part, m.num_heads) for part in F.linear(x, m.in_proj_weight, m.in_proj_bias).chunk(3, dim=-1))
        masks = mask_fields(attn_mask, q, true_is_seen=False)
        if key_padding_mask is not None:
            masks |= mask_fields(key_padding_mask[:, None, None], q, true_is_seen=False)
        # With a mask at hand ``is_causal`` only promises that the mask is causal: the mask alone decides.
        dropout = m.dropout if m.training else 0.0
        out = self.attend(q, k, v, scale=m.head_dim**-0.5, dropout=dropout, causal=is_causal and attn_mask is None, **masks)
        out = F.linear(merge_heads(out), m.out_proj.weight, m.out_proj.bias)  # as torch's own: not by the layer's forward
        return (out if m.batch_first else out.transpose(0, 1)), None


def project(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one of timm's modules, ``[B, heads, N, d]`` each; k and v may have fewer heads.

    BEiT's and old EVA weights keep their biases apart.
    """
    if getattr(m, "qkv", None) is None:
        parts = [m.q_proj(x), m.k_proj(x), m.v_proj(x)]
    elif getattr(m, "q_bias", None) is None:
        parts = list(m.qkv(x).chunk(3, dim=-1))
    else:
        bias = torch.cat((m.q_bias, m.k_bias, m.v_bias))
        separate = getattr(m, "qkv_bias_separate", False)
        parts = list((m.qkv(x) + bias if separate else F.linear(x, m.qkv.weight, bias)).chunk(3, dim=-1))
    heads = (m.num_heads, *(getattr(m, "num_kv_heads", m.num_heads),) * 2)
    q, k, v = (split_heads(part, count) for part, count in zip(parts, heads, strict=True))
    return q, k, v


def softmax_scale(m: Any, width: int) -> Any:
    """What one of timm's modules, with heads of ``width``, multiplies its logits by.

    That is what its ``scale`` says, which the fused kernel is not told.
    """
    return width**-0.5 if getattr(m, "fused_attn", False) else m.scale


def scaled(m: Any, q: Tensor) -> tuple[Tensor, float]:
    """q and its `softmax_scale`; a learned one, for which a site has no room, goes into q."""
    scale = softmax_scale(m, q.shape[-1])
    return (q * scale, 1.0) if isinstance(scale, Tensor) else (q, scale)


def dropped(m: Any) -> float:
    """The share of its weights that one of timm's modules drops: the fused kernel is told so in training, else the layer asks."""
    return m.attn_drop.p if (m if getattr(m, "fused_attn", False) else m.attn_drop).training else 0.0


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[B, N, heads * d]`` -> ``[B, heads, N, d]``."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``[B, H, N, d]`` -> ``[B, N, H * d]``."""
    return x.transpose(1, 2).flatten(2)


def expand_heads(k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Grouped k and v, repeated so that there is one for each of q's heads."""
    groups = heads // k.shape[1]
    return (k, v) if groups == 1 else (k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1))


def mask_fields(mask: Tensor | None, q: Tensor, true_is_seen: bool = True) -> dict[str, Tensor]:
    """A library's mask as site fields: ``keys`` or ``key_bias`` if it is the same for every query, else an additive ``dense``.

    ``mask`` ``[Nq, Nk]``, ``[B * H, Nq, Nk]`` or ``[B, H or 1, Nq or 1, Nk]``, boolean or additive; q ``[B, H, Nq, d]``.
    """
    if mask is None:
        return {}
    batch, heads = q.shape[:2]
    mask = mask.unflatten(0, (batch, heads)) if mask.dim() == 3 else mask[(None,) * (4 - mask.dim())]
    if mask.dtype == torch.bool:
        mask = mask if true_is_seen else ~mask
    same_for_all = mask.shape[1] == 1 and mask.shape[2] == 1 and mask.shape[0] in (1, batch) and q.shape[2] > 1
    if same_for_all:
        name = "keys" if mask.dtype == torch.bool else "key_bias"
        return {name: mask[:, 0, 0].expand(batch, -1)}
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    return {"dense": mask.to(q.dtype)}
