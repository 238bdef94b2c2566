"""Small random decoders, prompts with an image in them, and what a generation with a policy leaves behind."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from fna.configs import choices, instantiate, load_option
from fna.kv.contract import CachePolicy, Prompt, Pruning
from fna.surgery.cache import kept
from tests.surgery.zoo import liven

DEPTH, WORDS = 4, 60
FIRST, IMAGE, LAST = 3, 24, 9  # words before the image, image tokens, words after it
# What of a policy's knobs makes it keep everything.
FULL = {"budget": 1.0, "rate": 0.0, "compute_rate": 0.0}


def policies() -> list[str]:
    """The choices of conf/kv that need no more than a decoder."""
    names = sorted(set(choices("kv")) - {"none"})
    return [name for name in names if isinstance(made(name), CachePolicy | Pruning) and not getattr(made(name), "eyes", False)]


def made(name: str, **options: Any) -> Any:
    """The policy of that name; of its knobs those that it has."""
    node = load_option("kv", name)
    known = {key: value for key, value in {"seed": 0, **options}.items() if key in node}
    return instantiate(OmegaConf.merge(node, known))


@cache
def llama(groups: int = 2, implementation: str = "sdpa") -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=DEPTH, num_attention_heads=4, num_key_value_heads=groups,
        vocab_size=WORDS, pad_token_id=0, bos_token_id=1, eos_token_id=None, attn_implementation=implementation,
    )  # fmt: skip
    return liven(LlamaForCausalLM(config))


def question(seed: int = 0, image: int = IMAGE) -> tuple[Tensor, Tensor]:
    """Ids ``[1, P]`` of words, an image and words, and which of them are the image."""
    count = FIRST + image + LAST + seed % 3
    ids = torch.randint(2, WORDS, (1, count), generator=torch.Generator().manual_seed(seed))
    place = torch.arange(count)[None]
    return ids, (place >= FIRST) & (place < FIRST + image)


def padded(questions: list[tuple[Tensor, Tensor]], side: str = "left", more: int = 0) -> tuple[dict[str, Tensor], Prompt]:
    """A batch, padded by ``more`` columns beyond the longest."""
    longest = max(ids.shape[1] for ids, _ in questions) + more
    ids, images, valid = (torch.zeros(len(questions), longest, dtype=kind) for kind in (torch.long, torch.bool, torch.bool))
    for row, (words, image) in enumerate(questions):
        span = slice(longest - words.shape[1], longest) if side == "left" else slice(0, words.shape[1])
        ids[row, span], images[row, span], valid[row, span] = words[0], image[0], True
    return {"input_ids": ids, "attention_mask": valid.long()}, Prompt(images, valid)


@torch.inference_mode()
def answer(model: Any, policy: Any, inputs: dict[str, Tensor], prompt: Prompt | None, layers: Any = "all", **options: Any) -> Any:
    """(new ids ``[B, n]``, their logits ``[n, B, V]``, the cache)."""
    options = {"max_new_tokens": 8, "do_sample": False, **options}
    with kept(model, policy, layers, prompt) as cache:
        told = {"output_logits": True, "return_dict_in_generate": True}
        out = model.generate(**inputs, past_key_values=cache, **told, **options)
        return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits), cache


@torch.inference_mode()
def continued(model: Any, policy: Any, inputs: dict[str, Tensor], prompt: Prompt, more: Tensor) -> Tensor:
    """Logits ``[B, 1 + m, V]`` after each row's last word, and after each of ``more`` ``[B, m]``, whose words come one by one."""
    valid = inputs["attention_mask"]
    place = (valid.cumsum(1) - 1).clamp_min(0)
    with kept(model, policy, prompt=prompt) as cache:
        told = {"past_key_values": cache, "use_cache": True}
        out = model(**inputs, position_ids=place, **told).logits
        last = torch.where(valid.bool(), torch.arange(valid.shape[1]), -1).amax(1)
        found = [out[torch.arange(len(out)), last]]
        for step, words in enumerate(more.split(1, 1)):
            valid = torch.cat([valid, torch.ones_like(words)], 1)
            ids = place.amax(1, keepdim=True) + 1 + step
            found.append(model(words, attention_mask=valid, position_ids=ids, **told).logits[:, 0])
    return torch.stack(found, 1)


def stored(cache: Any, layer: int, row: int = 0) -> list[list[int]]:
    """The positions that a layer holds for each head of a row."""
    entries = cache.kept[layer].entries
    valid = torch.ones_like(entries.positions, dtype=torch.bool) if entries.valid is None else entries.valid
    return [head[there].tolist() for head, there in zip(entries.positions[row], valid[row], strict=True)]
