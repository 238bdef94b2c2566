"""What a block is made of, a row a class of blocks. ``x`` is the residual stream, ``[B, N, D]`` (old open_clip: ``[N, B, D]``).

Nothing here imports a model library. Classes are recognised by the library's top package and their name, because files move
between releases and names rarely do; where timm has the same name in many files, by the file too. The rows of transformers are
read from the class's own ``forward``, release 5.23.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from fna.errors import UserError


@dataclass(frozen=True)
class BlockSpec:
    """How a block with two residual branches is put together; every field but ``extras`` is an attribute path inside the block.

    x = x + scale1(post1(attention(norm1(x)))), then x = x + scale2(post2(mlp(norm2(x)))); a None is left out. ``call`` is
    what to call where it is not the attention module itself. ``extras`` names the block's further positional arguments, which
    all belong to attention. ``pieces``: False where only the attention's place is known: the block can be changed, and what takes
    it apart (reducers, registers, looking into it) is refused. ``bare``: no attention is left in it, somebody pruned it. Stochastic
    depth is left out: these describe a model in eval mode.
    """

    attention: str
    norm1: str | None
    norm2: str | None
    mlp: str = "mlp"
    post1: str | None = None
    post2: str | None = None
    scale1: str | None = None
    scale2: str | None = None
    call: str | None = None
    extras: tuple[str, ...] = ()
    pieces: bool = True
    bare: bool = False

    def attend(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``x`` after the attention branch; further arguments are those that the block's own forward was given."""
        self.taken_apart(block)
        kwargs |= {name: value for name, value in zip(self.extras, args, strict=False) if value is not None}
        attention, y = attrgetter(self.call or self.attention)(block), _apply(block, self.norm1, x)
        if isinstance(attention, nn.MultiheadAttention):
            y = attention(y, y, y, need_weights=False, **kwargs)
        else:
            y = attention(y, **kwargs)
        y = y[0] if isinstance(y, tuple) else y
        return x + _apply(block, self.scale1, _apply(block, self.post1, y))

    def feed(self, block: nn.Module, x: Tensor) -> Tensor:
        """``x`` after the MLP branch."""
        y = _apply(block, self.mlp, _apply(block, self.norm2, x))
        return x + _apply(block, self.scale2, _apply(block, self.post2, y))

    def attention_of(self, block: nn.Module) -> nn.Module:
        """The block's attention module; the block itself where the path is empty."""
        return attrgetter(self.attention)(block) if self.attention else block

    def taken_apart(self, block: nn.Module) -> None:
        """Raise `UserError` for a block that can only be changed as a whole."""
        if not self.pieces:
            raise UserError(
                f"a {class_name(type(block))} can have its attention changed, but fna does not know its norms and MLP: leave out "
                "reduce=, registers and what looks into its blocks."
            )

    def mlp_out(self, block: nn.Module) -> nn.Module:
        """The last linear layer of the MLP: its input is the activation ``[B, N, hidden]`` (after gate and norm, if any)."""
        self.taken_apart(block)
        return [module for module in attrgetter(self.mlp)(block).modules() if isinstance(module, nn.Linear)][-1]


def _apply(block: nn.Module, path: str | None, x: Tensor) -> Tensor:
    """x through the module at ``path``, or times the parameter there; unchanged where there is none."""
    part = None if path is None else attrgetter(path)(block)
    if part is None:
        return x
    return part(x) if isinstance(part, nn.Module) else part * x


BARE = BlockSpec("", norm1=None, norm2=None, pieces=False, bare=True)
_TIMM = BlockSpec("attn", norm1="norm1", norm2="norm2", scale1="ls1", scale2="ls2", extras=("attn_mask", "is_causal"))
_TIMM_POST = BlockSpec("attn", norm1=None, norm2=None, post1="norm1", post2="norm2", extras=("attn_mask", "is_causal"))
_BEIT = BlockSpec("attn", "norm1", "norm2", scale1="gamma_1", scale2="gamma_2", extras=("shared_rel_pos_bias",))
_RELATIVE = BlockSpec("attn", norm1="norm1", norm2="norm2", scale1="ls1", scale2="ls2", extras=("shared_rel_pos",))
_RELATIVE_POST = BlockSpec("attn", norm1=None, norm2=None, post1="norm1", post2="norm2", extras=("shared_rel_pos",))
_SAM = BlockSpec("attn", norm1="norm1", norm2="norm2", scale1="ls1", scale2="ls2", pieces=False)  # [B, rows, columns, D], windows
_EVA_EXTRAS = ("rope", "attn_mask", "is_causal")
_EVA = BlockSpec("attn", norm1="norm1", norm2="norm2", scale1="gamma_1", scale2="gamma_2", extras=_EVA_EXTRAS)
_EVA_POST = BlockSpec("attn", norm1=None, norm2=None, post1="norm1", post2="norm2", extras=_EVA_EXTRAS)
_OPEN_CLIP = BlockSpec(
    "attn", norm1="ln_1", norm2="ln_2", scale1="ls_1", scale2="ls_2", call="attention", extras=("k_x", "v_x", "attn_mask")
)
_OPEN_CLIP_CUSTOM = BlockSpec(
    "attn", norm1="ln_1", norm2="ln_2", post1="ln_attn", scale1="ls_1", scale2="ls_2", extras=("attn_mask",)
)
_CLIP = BlockSpec("self_attn", norm1="layer_norm1", norm2="layer_norm2", extras=("attention_mask",))
_MLCD = BlockSpec("self_attn", norm1="layer_norm1", norm2="layer_norm2", extras=("position_embeddings", "attention_mask"))
_VIT = BlockSpec("attention", norm1="layernorm_before", norm2="layernorm_after", extras=("attention_mask",))
_LAMBDA = BlockSpec("attention", norm1="layernorm_before", norm2="layernorm_after", scale1="lambda_1", scale2="lambda_2")
_DINO = BlockSpec(
    "attention", norm1="norm1", norm2="norm2", scale1="layer_scale1", scale2="layer_scale2", extras=("attention_mask",)
)
_DINO3 = replace(_DINO, extras=("attention_mask", "position_embeddings"))
_AIM = BlockSpec("attention", norm1="rms_norm1", norm2="rms_norm2", mlp="ffn", extras=("attention_mask",))
_LLAMA = BlockSpec("self_attn", norm1="input_layernorm", norm2="post_attention_layernorm", extras=("attention_mask",))

SPECS: dict[str, BlockSpec] = {
    "timm.Block": _TIMM,
    "timm.ResPostBlock": _TIMM_POST,
    "timm.beit.Block": _BEIT,
    "timm.RelPosBlock": _RELATIVE,
    "timm.ResPostRelPosBlock": _RELATIVE_POST,
    "timm.vision_transformer_sam.Block": _SAM,
    "timm.EvaBlock": _EVA,
    "timm.EvaBlockPostNorm": _EVA_POST,
    "open_clip.ResidualAttentionBlock": _OPEN_CLIP,
    "open_clip.CustomResidualAttentionBlock": _OPEN_CLIP_CUSTOM,
    "torchvision.EncoderBlock": BlockSpec("self_attention", norm1="ln_1", norm2="ln_2"),
    **{f"transformers.{name}": _CLIP for name in ("CLIPEncoderLayer", "ChineseCLIPVisionLayer", "MetaClip2EncoderLayer")},
    **{f"transformers.{name}": _CLIP for name in ("SiglipEncoderLayer", "Siglip2EncoderLayer")},
    **{f"transformers.{name}": _CLIP for name in ("Idefics3EncoderLayer", "SmolVLMEncoderLayer")},
    **{f"transformers.{name}Layer": _VIT for name in ("ViT", "ViTMAE", "ViTMSN", "DeiT", "IJepa", "Vivit", "Pixio")},
    **{f"transformers.{name}Layer": _DINO for name in ("Dinov2", "Dinov2WithRegisters")},
    **{f"transformers.{name}Layer": _DINO3 for name in ("DINOv3ViT", "Sapiens2")},
    "transformers.InternVLVisionLayer": _LAMBDA,
    "transformers.Aimv2EncoderLayer": _AIM,
    "transformers.MLCDEncoderLayer": _MLCD,
    "transformers.LlamaDecoderLayer": _LLAMA,
}


def class_keys(cls: type) -> Iterator[str]:
    """The names under which a class and its bases may stand in a table: "library.Class", most derived first."""
    for base in cls.__mro__:
        yield class_name(base)


def forward_key(module: nn.Module) -> str:
    """The table name of the class whose ``forward`` the module runs: a subclass with a forward of its own is something else, and so
    is a class whose forward somebody has replaced."""
    home = next(base for base in type(module).__mro__ if "forward" in vars(base))
    # Not by __module__, which functools.wraps copies. Decorators are a library's own or torch's (no_grad, compile).
    made: str = getattr(vars(home)["forward"], "__globals__", {}).get("__name__", home.__module__)
    own = made.partition(".")[0] in (home.__module__.partition(".")[0], "torch")
    return class_name(home) if own else f"{class_name(home)} with a forward of {made}"


def class_name(cls: type) -> str:
    """The name of a class in a table: "library.Class", or "timm.file.Class"."""
    parts = cls.__module__.split(".")
    top, file = parts[0], parts[-1]
    shared = top == "timm" and cls.__name__ in ("Attention", "Block") and file not in ("attention", "vision_transformer")
    return f"{top}.{file}.{cls.__name__}" if shared else f"{top}.{cls.__name__}"
