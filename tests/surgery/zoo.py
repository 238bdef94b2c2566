"""Small random models of every family, built once, and ops that tell what they were handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import timm
import torch
import transformers
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import Transformer
from timm.layers import Attention as TimmAttention
from timm.models.eva import Eva
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from fna.ops.contract import Site

WIDTH, DEPTH, HEADS, SIZE, PATCH = 32, 3, 2, 32, 8


@dataclass(frozen=True)
class Keep:
    """Not attention at all: every token keeps its value. Whoever runs it gives a clearly different output."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        return v


@dataclass(frozen=True, eq=False)
class Spy:
    """Exact attention that leaves copies of its sites in a list (a list in the op: fine for a test, wrong for a method)."""

    sites: list[Site]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        self.sites.append(site)
        return F.scaled_dot_product_attention(q, k, v, scale=site.scale, is_causal=site.causal)


@dataclass(frozen=True)
class FirstSeen:
    """Attends to the keys that the first block of a pass chose and left in the memo: shows whether memos leak."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if "pick" not in site.memo:
            site.memo["pick"] = q.mean(1).norm(dim=-1).argsort(dim=-1)[:, :4]
        pick = site.memo["pick"][:, None, :, None].expand(-1, k.shape[1], -1, k.shape[-1])
        return F.scaled_dot_product_attention(q, k.gather(2, pick), v.gather(2, pick), scale=site.scale)


class Gated(TimmAttention):
    """timm's gate, which VisionTransformer has no switch for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, gated=True, **kwargs)


class Narrow(TimmAttention):
    """Heads that do not add up to the width."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, attn_head_dim=12, **kwargs)


def liven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough that attention is far from uniform and every gate, scale and bias matters; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(noise * 1.5 * max(weight[0].numel(), 1) ** -0.5)
            elif name.endswith(("gamma", "gamma_1", "gamma_2", "lambda1")):
                weight.copy_(0.5 + 0.1 * noise)
            else:
                weight.add_(0.1 * noise)
    return model.eval()


def _vit(**options: Any) -> nn.Module:
    base = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 5}
    return VisionTransformer(**(base | options))


def _eva(**options: Any) -> nn.Module:
    base = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 5}
    return Eva(**(base | options))


_VISION = {"image_size": SIZE, "patch_size": PATCH, "width": WIDTH, "layers": DEPTH, "head_width": WIDTH // HEADS}
_TEXT = {"context_length": 8, "vocab_size": 50, "width": WIDTH, "heads": HEADS, "layers": 2}


def _clip(**vision: Any) -> nn.Module:
    return CLIP(16, _VISION | vision, _TEXT)


def _clip_sequence_first() -> nn.Module:
    """As open_clip ran its blocks up to 2.24."""
    model = _clip()
    model.visual.transformer = Transformer(WIDTH, DEPTH, HEADS, batch_first=False)
    return model


def _clip_timm() -> nn.Module:
    """A SigLIP-like model: a timm tower with an attention pool. open_clip can only name stock sizes, so ours is put in after."""
    model = CustomTextCLIP(16, _VISION | {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False}, _TEXT)
    model.visual.trunk = _vit(class_token=False, global_pool="map", num_classes=0)
    model.visual.head = nn.Linear(WIDTH, 16)
    return model


_HF: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "image_size": SIZE,
    "patch_size": PATCH,
}


def _hf(name: str, **options: Any) -> nn.Module:
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**_HF, **options))


def _hf_pair(name: str) -> nn.Module:
    """A whole two-tower model."""
    text = {key: value for key, value in _HF.items() if key not in ("image_size", "patch_size")}
    text |= {"vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 1}
    config = getattr(transformers, f"{name}Config")(vision_config=_HF, text_config=text, projection_dim=16)
    return getattr(transformers, f"{name}Model")(config)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "timm": _vit,
    "timm_map_pool": partial(_vit, class_token=False, global_pool="map"),
    "timm_registers": partial(_vit, reg_tokens=4, qk_norm=True, init_values=0.5, no_embed_class=True, dynamic_img_size=True),
    "timm_norms": partial(_vit, scale_attn_norm=True, scale_mlp_norm=True, qkv_bias=False, proj_bias=False),
    "timm_post_norm": partial(_vit, block_fn=ResPostBlock, init_values=0.5),
    "timm_gated": partial(_vit, attn_layer=Gated),
    "timm_narrow": partial(_vit, attn_layer=Narrow),
    "timm_hub": partial(timm.create_model, "vit_tiny_patch16_224", img_size=SIZE, patch_size=PATCH, depth=DEPTH, num_classes=5),
    "eva": partial(_eva, use_rot_pos_emb=True, rope_type="cat", swiglu_mlp=True, init_values=0.5),
    "eva_apart": partial(_eva, use_rot_pos_emb=True, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True),
    "eva_post_norm": partial(_eva, use_post_norm=True),
    "eva_dinov3": partial(
        _eva, attn_type="rope", use_rot_pos_emb=True, rope_type="dinov3", rope_rotate_half=True, num_reg_tokens=4, qk_norm=True
    ),
    "eva_mixed": partial(_eva, attn_type="rope", use_rot_pos_emb=True, rope_type="mixed"),
    "eva_grouped": partial(_eva, attn_type="rope", qkv_fused=False, num_kv_heads=1, use_rot_pos_emb=True, depth=DEPTH),
    "open_clip": _clip,
    "open_clip_scaled": partial(_clip, ls_init_value=0.5, pool_type="avg"),
    "open_clip_coca": partial(_clip, attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=HEADS),
    "open_clip_sequence_first": _clip_sequence_first,
    "open_clip_custom": partial(
        _clip, qk_norm=True, scale_heads=True, scale_attn_inner=True, scale_attn=True, scale_fc=True, ls_init_value=0.5
    ),
    "open_clip_timm": _clip_timm,
    "hf_clip": partial(_hf, "CLIPVision"),
    "hf_clip_eager": partial(_hf, "CLIPVision", attn_implementation="eager"),
    "hf_clip_pair": partial(_hf_pair, "CLIP"),
    "hf_siglip": partial(_hf, "SiglipVision"),
    "hf_siglip_pair": partial(_hf_pair, "Siglip"),
    "hf_dinov2": partial(_hf, "Dinov2"),
    "hf_dinov2_eager": partial(_hf, "Dinov2", attn_implementation="eager"),
    "hf_dinov2_swiglu": partial(_hf, "Dinov2", use_swiglu_ffn=True),
    "hf_dinov2_registers": partial(_hf, "Dinov2WithRegisters", num_register_tokens=4),
}
# One of each seam, for what need not be shown on all of them.
FEW = ["timm_registers", "eva", "open_clip", "open_clip_custom", "hf_clip", "hf_dinov2_registers"]


@cache
def zoo(name: str) -> nn.Module:
    """The model of that name, the same object each time: a test that changes it must change it back."""
    torch.manual_seed(0)
    with torch.inference_mode(False):  # whoever asks first: others train it
        return liven(BUILDERS[name]())


def fresh(name: str, seed: int = 0) -> nn.Module:
    """A model of that name which no other test sees."""
    torch.manual_seed(seed)
    return liven(BUILDERS[name](), seed)


def images(batch: int = 2, seed: int = 0, size: int = SIZE) -> Tensor:
    """``[batch, 3, size, size]``."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The image's embedding, logits or tokens, whatever the model gives first."""
    if hasattr(model, "encode_image"):
        return model.encode_image(x)
    if hasattr(model, "get_image_features"):
        out = model.get_image_features(pixel_values=x)
        return out if isinstance(out, Tensor) else out.pooler_output
    out = model(x)
    return out if isinstance(out, Tensor) else out.last_hidden_state
