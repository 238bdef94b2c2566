"""The same tensors under the names of other libraries: tables from timm's and open_clip's names to those of Hugging Face files.

A rule reads "own name = what it is made of": ``{n}`` is a block's number, ``{w}`` is weight or bias (or whatever ends the name),
``+`` joins along the first axis, ``.T`` transposes, ``[first]`` and ``[rest]`` take the first third and the last two of a packed
projection. The tables are checked against transformers' own outputs in tests/models/test_hf_files.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache

import torch
from torch import Tensor

from fna.models.checkpoints import matched

Rules = tuple[tuple[str, str], ...]


def _rules(text: str, prefix: str = "") -> Rules:
    """Rules from lines "own = sources"; ``prefix`` goes before every source but the classifier's."""
    pairs = [line.split(" = ") for line in text.splitlines() if line.strip()]
    return tuple((own.strip(), " + ".join(_put(prefix, part) for part in made.split(" + "))) for own, made in pairs)


def _put(prefix: str, source: str) -> str:
    return source.strip() if source.strip().startswith("classifier") else prefix + source.strip()


_EMBEDDINGS = """
cls_token = embeddings.cls_token
pos_embed = embeddings.position_embeddings
reg_token = embeddings.register_tokens
patch_embed.proj.{w} = embeddings.patch_embeddings.projection.{w}
norm.{w} = layernorm.{w}
head.{w} = classifier.{w}
"""
_DINO_BLOCK = """
blocks.{n}.norm1.{w} = encoder.layer.{n}.norm1.{w}
blocks.{n}.norm2.{w} = encoder.layer.{n}.norm2.{w}
blocks.{n}.ls1.gamma = encoder.layer.{n}.layer_scale1.lambda1
blocks.{n}.ls2.gamma = encoder.layer.{n}.layer_scale2.lambda1
"""
_PLAIN_MLP = """
blocks.{n}.mlp.fc1.{w} = encoder.layer.{n}.mlp.fc1.{w}
blocks.{n}.mlp.fc2.{w} = encoder.layer.{n}.mlp.fc2.{w}
"""
_GATED_MLP = """
blocks.{n}.mlp.fc1.{w} = encoder.layer.{n}.mlp.weights_in.{w}
blocks.{n}.mlp.fc2.{w} = encoder.layer.{n}.mlp.weights_out.{w}
"""
_DINO = """
blocks.{n}.attn.qkv.{w} = {at}.attention.query.{w} + {at}.attention.key.{w} + {at}.attention.value.{w}
blocks.{n}.attn.proj.{w} = {at}.output.dense.{w}
""".replace("{at}", "encoder.layer.{n}.attention")
_DINO_5 = """
blocks.{n}.attn.qkv.{w} = {at}.q_proj.{w} + {at}.k_proj.{w} + {at}.v_proj.{w}
blocks.{n}.attn.proj.{w} = {at}.o_proj.{w}
""".replace("{at}", "encoder.layer.{n}.attention")
_GATED_MLP_5 = """
blocks.{n}.mlp.fc1.{w} = encoder.layer.{n}.mlp.gate_proj.{w} + encoder.layer.{n}.mlp.up_proj.{w}
blocks.{n}.mlp.fc2.{w} = encoder.layer.{n}.mlp.down_proj.{w}
"""
_VIT = """
blocks.{n}.norm1.{w} = encoder.layer.{n}.layernorm_before.{w}
blocks.{n}.norm2.{w} = encoder.layer.{n}.layernorm_after.{w}
blocks.{n}.mlp.fc1.{w} = encoder.layer.{n}.intermediate.dense.{w}
blocks.{n}.mlp.fc2.{w} = encoder.layer.{n}.output.dense.{w}
"""
_CLIP_BLOCK = """
{own}.{n}.ln_1.{w} = {hf}.{n}.layer_norm1.{w}
{own}.{n}.ln_2.{w} = {hf}.{n}.layer_norm2.{w}
{own}.{n}.attn.in_proj_{w} = {hf}.{n}.self_attn.q_proj.{w} + {hf}.{n}.self_attn.k_proj.{w} + {hf}.{n}.self_attn.v_proj.{w}
{own}.{n}.attn.out_proj.{w} = {hf}.{n}.self_attn.out_proj.{w}
{own}.{n}.mlp.c_fc.{w} = {hf}.{n}.mlp.fc1.{w}
{own}.{n}.mlp.c_proj.{w} = {hf}.{n}.mlp.fc2.{w}
"""
_CLIP_TEXT = """
token_embedding.weight = text_model.embeddings.token_embedding.weight
positional_embedding = text_model.embeddings.position_embedding.weight
ln_final.{w} = text_model.final_layer_norm.{w}
""" + _CLIP_BLOCK.replace("{own}", "transformer.resblocks").replace("{hf}", "text_model.encoder.layers")
_CLIP = """
visual.class_embedding = vision_model.embeddings.class_embedding
visual.positional_embedding = vision_model.embeddings.position_embedding.weight
visual.conv1.weight = vision_model.embeddings.patch_embedding.weight
visual.ln_pre.{w} = vision_model.pre_layrnorm.{w}
visual.ln_post.{w} = vision_model.post_layernorm.{w}
visual.proj = visual_projection.weight.T
text_projection = text_projection.weight.T
logit_scale = logit_scale
""" + _CLIP_BLOCK.replace("{own}", "visual.transformer.resblocks").replace("{hf}", "vision_model.encoder.layers")
_SIGLIP = (
    """
visual.trunk.pos_embed = vision_model.embeddings.position_embedding.weight
visual.trunk.patch_embed.proj.{w} = vision_model.embeddings.patch_embedding.{w}
visual.trunk.norm.{w} = vision_model.post_layernorm.{w}
visual.trunk.blocks.{n}.norm1.{w} = vision_model.encoder.layers.{n}.layer_norm1.{w}
visual.trunk.blocks.{n}.norm2.{w} = vision_model.encoder.layers.{n}.layer_norm2.{w}
visual.trunk.blocks.{n}.attn.qkv.{w} = {at}.q_proj.{w} + {at}.k_proj.{w} + {at}.v_proj.{w}
visual.trunk.blocks.{n}.attn.proj.{w} = {at}.out_proj.{w}
visual.trunk.blocks.{n}.mlp.{w} = vision_model.encoder.layers.{n}.mlp.{w}
visual.trunk.attn_pool.latent = vision_model.head.probe
visual.trunk.attn_pool.q.{w} = vision_model.head.attention.in_proj_{w}[first]
visual.trunk.attn_pool.kv.{w} = vision_model.head.attention.in_proj_{w}[rest]
visual.trunk.attn_pool.proj.{w} = vision_model.head.attention.out_proj.{w}
visual.trunk.attn_pool.norm.{w} = vision_model.head.layernorm.{w}
visual.trunk.attn_pool.mlp.{w} = vision_model.head.mlp.{w}
text.text_projection.{w} = text_model.head.{w}
logit_scale = logit_scale
logit_bias = logit_bias
""".replace("{at}", "vision_model.encoder.layers.{n}.self_attn")
    + re.sub(r"(?m)^(?=\w)", "text.", _CLIP_TEXT)
)

_VIT_5 = (
    (_EMBEDDINGS + _DINO_5 + _PLAIN_MLP).replace("encoder.layer.", "layers.")
    + """
blocks.{n}.norm1.{w} = layers.{n}.layernorm_before.{w}
blocks.{n}.norm2.{w} = layers.{n}.layernorm_after.{w}
"""
)
_OLD = _EMBEDDINGS + _DINO_BLOCK + _DINO
_NEW = _EMBEDDINGS + _DINO_BLOCK + _DINO_5

# By the names that are wanted: DINOv2 (plain, gated) and ViT, as in files and as transformers 5 names them in memory.
FOR_TIMM: dict[str, Rules] = {
    f"Hugging Face {name}{' with a classifier' if prefix else ''}": _rules(text, prefix)
    for name, text, prefix in (
        ("DINOv2", _OLD + _PLAIN_MLP, ""),
        ("DINOv2", _OLD + _PLAIN_MLP, "dinov2."),
        ("gated DINOv2", _OLD + _GATED_MLP, ""),
        ("DINOv2 (release 5)", _NEW + _PLAIN_MLP, ""),
        ("DINOv2 (release 5)", _NEW + _PLAIN_MLP, "dinov2."),
        ("gated DINOv2 (release 5)", _NEW + _GATED_MLP_5, ""),
        ("ViT", _EMBEDDINGS + _DINO + _VIT, ""),
        ("ViT", _EMBEDDINGS + _DINO + _VIT, "vit."),
        ("ViT (release 5)", _VIT_5, ""),
        ("ViT (release 5)", _VIT_5, "vit."),
    )
}
# Meta's Segment Anything: timm's names but for the MLPs.
FOR_TIMM["Meta's SAM"] = (
    *((f"blocks.{{n}}.mlp.fc{one}.{{w}}", f"blocks.{{n}}.mlp.lin{one}.{{w}}") for one in "12"),
    ("{w}", "{w}"),
)
FOR_OPEN_CLIP: dict[str, Rules] = {
    "Hugging Face CLIP": _rules(_CLIP + _CLIP_TEXT),
    "Hugging Face SigLIP": _rules(_SIGLIP),
    # open_clip's own two layouts of the text tower
    "open_clip CLIP": (("text.{w}", "{w}"), ("{w}", "{w}")),
}


def made_of(own: str, rules: Rules) -> list[str]:
    """The tensors that ``own`` is made of, as the other library names them with their ``.T`` and ``[...]``; none if unknown."""
    for pattern, sources in rules:
        found = _pattern(pattern).fullmatch(own)
        if found:
            return [part.format(**found.groupdict()) for part in sources.split(" + ")]
    return []


def source_names(expected: Collection[str], rules: Rules) -> set[str]:
    """All names that a file of the other library has for the tensors ``expected``."""
    return {_bare(part) for own in expected for part in made_of(own, rules)}


def best_match(loaded: object, own: Collection[str], known: Mapping[str, Rules]) -> Rules | None:
    """The rules under whose names most of ``own`` is found in a loaded checkpoint; None where its own names do as well."""
    found: dict[str, float] = {}
    for label, rules in known.items():
        names = source_names(own, rules)
        # a part of all that is wanted: sources that join into one tensor must not count for more than it
        covered = sum(bool(made_of(name, rules)) for name in own) / max(1, len(own))
        found[label] = covered * matched(loaded, names) / max(1, len(names))
    best = max(found, key=lambda label: found[label])
    return known[best] if found[best] > matched(loaded, own) / max(1, len(own)) else None


def converted(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """``state`` under the names of ``expected``; what the rules do not speak of keeps its name, what is incomplete is left out."""
    out = {}
    used: set[str] = set()
    for own, wanted in expected.items():
        parts = made_of(own, rules)
        if parts and all(_bare(part) in state for part in parts):
            tensor = torch.cat([_taken(state[_bare(part)], part) for part in parts])
            used.update(_bare(part) for part in parts)
            out[own] = shaped(tensor, wanted)
    return out | {name: tensor for name, tensor in state.items() if name not in used and name not in out}


@cache
def _pattern(own: str) -> re.Pattern[str]:
    return re.compile(re.escape(own).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{w\}", r"(?P<w>[\w.]+)"))


def _bare(part: str) -> str:
    return part.removesuffix(".T").partition("[")[0]


def _taken(tensor: Tensor, part: str) -> Tensor:
    if part.endswith(".T"):
        return tensor.T.contiguous()
    third = tensor.shape[0] // 3 if tensor.dim() else 0
    if part.endswith("[first]"):
        return tensor[:third]
    if part.endswith("[rest]"):
        return tensor[third:]
    return tensor.reshape(1) if not tensor.dim() else tensor


def shaped(tensor: Tensor, wanted: Tensor) -> Tensor:
    """``tensor`` in the shape of ``wanted`` where the two differ in axes of length 1 alone, else as it is."""
    same = [side for side in tensor.shape if side != 1] == [side for side in wanted.shape if side != 1]
    return tensor.reshape(wanted.shape) if same else tensor
