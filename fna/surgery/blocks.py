"""Where a model keeps its transformer: the tower, its blocks, and what each block is made of.

One table row a library class; what has none is found by its structure (`fna.surgery.stacks`). Nothing here imports a model library.
Classes are recognised by the library's top package and their name, because files move between releases and names rarely do; where
timm has the same name in many files, by the file too. ``x`` is the residual stream, ``[B, N, D]`` (sequence-first towers
of old open_clip: ``[N, B, D]``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from fna.errors import UserError
from fna.surgery import stacks
from fna.surgery.plan import Layers, parse_layers


@dataclass(frozen=True)
class BlockSpec:
    """How a block with two residual branches is put together; every field but ``extras`` is an attribute path inside the block.

    x = x + scale1(post1(attention(norm1(x)))), then x = x + scale2(post2(mlp(norm2(x)))); a None is left out. ``call`` is
    what to call where it is not the attention module itself. ``extras`` names the block's further positional arguments, which
    all belong to attention. ``pieces``: False where only the attention's place is known: the block can be changed, and what takes
    it apart (reducers, registers, looking into it) is refused. Stochastic depth is left out: these describe a model in eval mode.
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
                f"a {_name(type(block))} can have its attention changed, but fna does not know its norms and MLP: leave out "
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
_DINO = BlockSpec(
    "attention", norm1="norm1", norm2="norm2", scale1="layer_scale1", scale2="layer_scale2", extras=("attention_mask",)
)
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
    "transformers.CLIPEncoderLayer": _CLIP,
    "transformers.SiglipEncoderLayer": _CLIP,
    "transformers.Dinov2Layer": _DINO,
    "transformers.Dinov2WithRegistersLayer": _DINO,
    "transformers.LlamaDecoderLayer": _LLAMA,
}


@dataclass(frozen=True)
class Kind:
    """Where a tower class keeps things: attribute paths of its blocks and of the module that cuts the image into patches."""

    blocks: str
    patches: str | None
    part: str = "vision"


_HF = Kind("encoder.layers", "embeddings.patch_embedding")
_HF_DINO = Kind("encoder.layer", "embeddings.patch_embeddings.projection")

KINDS: dict[str, Kind] = {
    "timm.VisionTransformer": Kind("blocks", "patch_embed.proj"),
    "timm.Eva": Kind("blocks", "patch_embed.proj"),
    "timm.Beit": Kind("blocks", "patch_embed.proj"),
    "timm.VisionTransformerRelPos": Kind("blocks", "patch_embed.proj"),
    "timm.VisionTransformerSAM": Kind("blocks", "patch_embed.proj"),
    "timm.NaFlexVit": Kind("blocks", "embeds.proj"),
    "torchvision.VisionTransformer": Kind("encoder.layers", "conv_proj"),
    "open_clip.VisionTransformer": Kind("transformer.resblocks", "conv1"),
    "transformers.CLIPVisionModel": _HF,
    "transformers.CLIPVisionTransformer": _HF,
    "transformers.SiglipVisionModel": _HF,
    "transformers.SiglipVisionTransformer": _HF,
    "transformers.Dinov2Model": _HF_DINO,
    "transformers.Dinov2WithRegistersModel": _HF_DINO,
    "transformers.LlamaModel": Kind("layers", None, "language"),
}


@dataclass(frozen=True, eq=False)
class Tower:
    """A transformer found inside a model. ``kind`` is its class as the tables name it ("timm.Eva"), ``family`` the library.

    ``specs[i]`` describes ``blocks[i]``. ``patches`` is the module whose output ``[B, D, rows, columns]`` shows the grid of
    the image at hand; ``grid`` is the one that the model was made for. ``windowed``: blocks that attend in windows, each with how
    many tokens. ``seam``: what stands in for the forward of ``blocks``, where somebody brought one of their own.
    """

    kind: str
    module: nn.Module
    blocks: tuple[nn.Module, ...]
    specs: tuple[BlockSpec, ...]
    prefix: int
    grid: tuple[int, int] | None = None
    patches: nn.Module | None = None
    batch_first: bool = True
    windowed: Mapping[int, int] = field(default_factory=dict)
    seam: Callable[..., Any] | None = None

    def layers(self, spec: Layers) -> tuple[int, ...]:
        """The blocks that ``spec`` names (`parse_layers`): by "all" and "last-half" those that see the whole image."""
        return parse_layers(spec, len(self.blocks), local=self.windowed)

    def windows(self) -> str | None:
        """What has to be said of its windows, in words."""
        if not self.windowed:
            return None
        sizes = sorted(set(self.windowed.values()))
        seeing = [str(layer) for layer in range(len(self.blocks)) if layer not in self.windowed]
        told = {0: "no block is", 1: f"block {''.join(seeing)} is"}.get(len(seeing), f"blocks {', '.join(seeing)} are")
        return (
            f"{told} global; the others attend in windows of {' or '.join(map(str, sizes))} tokens and stay exact unless a number "
            "names them"
        )

    @property
    def family(self) -> str:
        """The library: timm, open_clip or transformers."""
        return self.kind.partition(".")[0]


def find_tower(model: nn.Module | Tower, part: str = "vision") -> Tower:
    """The one tower of ``model`` (or the model itself) whose blocks can be changed.

    ``part``: "vision", or "language" for the decoder of a vision-language model. Raises `UserError` if there is none, more than
    one, or attention that cannot be reached. A tower is found already.
    """
    if isinstance(model, Tower):
        return model
    if not isinstance(model, nn.Module):
        raise UserError(f"model={type(model).__name__}: is no torch.nn.Module; hand over the model itself, built and loaded.")
    found = [(kind, module) for module in model.modules() if (kind := _kind(module, part)) is not None]
    if not found and part == "vision":
        holder, blocks = stacks.find(model)
        return tower_of(holder, blocks, _name(type(holder)), prefix=int(getattr(holder, "num_prefix_tokens", 0)))
    if not found:
        raise UserError(f"{_name(type(model))} holds no {part} transformer that fna knows; it knows {_known(part)}.")
    if len(found) > 1:
        names = ", ".join(_name(type(module)) for _, module in found)
        raise UserError(f"{_name(type(model))} holds {len(found)} {part} transformers ({names}): hand over the one that you mean.")
    kind, module = found[0]
    blocks = tuple(attrgetter(KINDS[kind].blocks)(module))
    return tower_of(
        module,
        blocks,
        kind,
        prefix=_prefix(module, kind),
        grid=_grid(module, kind),
        patches=_reach(module, KINDS[kind].patches),
        batch_first=getattr(getattr(module, "transformer", None), "batch_first", True),
    )


def tower_of(module: nn.Module, blocks: tuple[nn.Module, ...], kind: str, *, prefix: int, **known: Any) -> Tower:
    """The tower of ``blocks`` in ``module``; ``known``: the fields of `Tower` that are."""
    specs = tuple(_spec(block, number) for number, block in enumerate(blocks))
    return Tower(kind, module, blocks, specs, prefix, windowed=stacks.windows(blocks), **known)


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``x`` through some blocks; further arguments are what the model hands to each of them (masks, rotary tables)."""
    for block in blocks:
        out = block(x, *args, **kwargs)
        x = out[0] if isinstance(out, tuple) else out
    return x


def class_keys(cls: type) -> Iterator[str]:
    """The names under which a class and its bases may stand in a table: "library.Class", most derived first."""
    for base in cls.__mro__:
        yield _name(base)


def forward_key(module: nn.Module) -> str:
    """The table name of the class whose ``forward`` the module runs: a subclass with a forward of its own is something else."""
    return next(_name(base) for base in type(module).__mro__ if "forward" in vars(base))


def _name(cls: type) -> str:
    parts = cls.__module__.split(".")
    top, file = parts[0], parts[-1]
    shared = top == "timm" and cls.__name__ in ("Attention", "Block") and file not in ("attention", "vision_transformer")
    return f"{top}.{file}.{cls.__name__}" if shared else f"{top}.{cls.__name__}"


def _kind(module: nn.Module, part: str) -> str | None:
    """The table name of a tower class that ``module`` is. Wrappers of older releases, which bear the same name, have no blocks."""
    key = next((key for key in class_keys(type(module)) if key in KINDS and KINDS[key].part == part), None)
    return key if key is not None and _reach(module, KINDS[key].blocks) is not None else None


def _known(part: str) -> str:
    return ", ".join(sorted(key for key, kind in KINDS.items() if kind.part == part))


def _spec(block: nn.Module, number: int) -> BlockSpec:
    key = forward_key(block)
    return SPECS[key] if key in SPECS else BlockSpec(stacks.place(block, number), norm1=None, norm2=None, pieces=False)


def _reach(module: nn.Module, path: str | None) -> nn.Module | None:
    """The module at ``path``, None where it stops short."""
    try:
        return None if path is None else attrgetter(path)(module)
    except AttributeError:
        return None


def _prefix(module: nn.Module, kind: str) -> int:
    """Tokens in front of the patches: CLS, distillation, registers."""
    if kind.startswith("timm."):
        return int(getattr(module, "num_prefix_tokens", 0))  # SAM has none
    if "Dinov2" in kind:
        return 1 + int(getattr(module.config, "num_register_tokens", 0))
    return 0 if "Siglip" in kind or KINDS[kind].part == "language" else 1


def _grid(module: nn.Module, kind: str) -> tuple[int, int] | None:
    """(rows, columns) of patches at the image size that the model was made for."""
    size: Sequence[int] | None
    if kind.startswith("timm."):
        size = getattr(_reach(module, "patch_embed"), "grid_size", None)
    elif kind.startswith("torchvision."):
        size = (module.image_size // module.patch_size,) * 2  # type: ignore[operator, assignment]
    elif kind.startswith("open_clip."):
        size = module.grid_size  # type: ignore[assignment]
    elif KINDS[kind].patches is not None:
        config: Any = module.config
        size = [image // patch for image, patch in zip(_pair(config.image_size), _pair(config.patch_size), strict=True)]
    else:
        size = None
    return None if size is None else (int(size[0]), int(size[1]))


def _pair(side: int | Sequence[int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])
