"""The parts of llava_shapes before training: its tokenizer, its processor, its settings, and the frozen tower of clip_shapes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import open_clip
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from fna.data.scene_questions import candidates
from fna.data.scenes import make_scene
from fna.surgery.resolution import set_image_size

CLIP = Path(__file__).parents[1] / "fna/models/zoo/clip_shapes"
SIZE = 144  # pixels: 18 x 18 patches
LAYERS = [4, -2]  # of the tower, side by side: outlines are clearest in its middle, names near its end
SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<unk>", "USER:", "ASSISTANT:")
CHAT = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ ' ' if message['role'] == 'user' else '</s>' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def words() -> list[str]:
    """Every word of every question and answer, in alphabetical order."""
    found: set[str] = set()
    for seed in range(10_000_000, 10_000_400):
        for question in candidates(make_scene(seed)):
            found |= set(question.text.replace("?", " ?").replace(",", " ,").split()) | set(question.answer.split())
    return sorted(found)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, LLaVA-1.5's prompt; a word that no question holds is `<unk>`."""
    names = [*SPECIAL, *words()]
    plain = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    plain.normalizer = Lowercase()
    plain.pre_tokenizer = Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    plain.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", names.index("<s>"))])
    plain.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
    )


def processor(reads: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Squares of SIZE pixels, as clip_shapes wants them; a picture's place is taken by one token a patch."""
    pictures = CLIPImageProcessor(
        size={"height": SIZE, "width": SIZE}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return LlavaProcessor(
        pictures,
        reads,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )


def tower(size: int) -> CLIPVisionModel:
    """The image tower of clip_shapes for images of `size` pixels, in transformers' own class, frozen."""
    clip = open_clip.create_model(f"local-dir:{CLIP}")
    set_image_size(clip, size)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in clip.visual.state_dict().items():
        if name == "proj":
            continue
        found = _renamed(name)
        if "in_proj" in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                state[found.format(part)] = piece
        else:
            state[found] = tensor
    model = CLIPVisionModel(vision_config(size))
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    """open_clip's name of a weight as transformers has it; of a joined projection with a place for q, k or v."""
    pairs = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1": "embeddings.patch_embedding",
        "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
        "transformer.resblocks": "encoder.layers",
        "attn.in_proj_": "self_attn.{}_proj.",
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "c_fc": "fc1",
        "c_proj": "fc2",
    }
    for old, new in pairs.items():
        name = name.replace(old, new)
    return name


def vision_config(size: int) -> CLIPVisionConfig:
    """clip_shapes' tower."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=2,
        image_size=size,
        patch_size=8,
        hidden_act="gelu",
        projection_dim=256,
    )


def config(reads: PreTrainedTokenizerFast) -> LlavaConfig:
    """A Llama of 2.4 million parameters, four heads over two of keys, behind that tower."""
    text = LlamaConfig(
        vocab_size=len(reads),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=reads.pad_token_id,
        bos_token_id=reads.bos_token_id,
        eos_token_id=reads.eos_token_id,
    )
    return LlavaConfig(
        vision_config=vision_config(SIZE).to_dict(),
        text_config=text.to_dict(),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=(SIZE // 8) ** 2,
        vision_feature_layer=LAYERS,
        vision_feature_select_strategy="default",
    )


@torch.no_grad()
def untrained(reads: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The model before its first step. Queries and keys of a group are one projection (mimetic initialisation, arXiv:2305.09828),
    so that a word first looks at what is like it."""
    model = LlavaForConditionalGeneration(config(reads))
    model.model.vision_tower.load_state_dict(tower(SIZE).state_dict())
    model.model.vision_tower.requires_grad_(False)
    text: Any = model.config.text_config
    width, heads = text.hidden_size, text.num_attention_heads // text.num_key_value_heads
    for layer in model.model.language_model.layers:
        keys = [
            torch.linalg.qr(torch.randn(width, width // text.num_attention_heads))[0].T for _ in range(text.num_key_value_heads)
        ]
        shared = math.sqrt(0.5) * torch.stack(keys)
        attention = layer.self_attn
        attention.k_proj.weight.copy_(shared.flatten(0, 1) + 0.02 * torch.randn_like(attention.k_proj.weight))
        attention.q_proj.weight.copy_(
            shared.repeat_interleave(heads, 0).flatten(0, 1) + 0.02 * torch.randn_like(attention.q_proj.weight)
        )
    return model
