"""Small random vision-language models of transformers, and prompts for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

PATCH, SIDE, IMAGE, WORDS = 4, 24, 3, 40  # 6 x 6 patches
GRID = (SIDE // PATCH, SIDE // PATCH)


def parts() -> dict[str, Any]:
    """Settings of a tower of 3 blocks and a Llama of 3 with grouped heads."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=PATCH
    )
    text = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return {"vision_config": vision.to_dict(), "text_config": text.to_dict(), "image_token_index": IMAGE}


@cache
def llava() -> LlavaForConditionalGeneration:
    """LLaVA; weights large enough for attention to be far from even."""
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(**parts(), image_seq_length=GRID[0] * GRID[1]))
    return _strong(model)


@cache
def llava_next() -> LlavaNextForConditionalGeneration:
    """LLaVA-NeXT, which cuts images into tiles."""
    torch.manual_seed(1)
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    return _strong(LlavaNextForConditionalGeneration(LlavaNextConfig(**parts(), image_grid_pinpoints=pinpoints)))


def _strong(model: Any) -> Any:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.mul_(6 if "embed" not in name else 20)
    return model.eval()


def prompts(batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Questions about one image each, of different lengths, padded on the left."""
    torch.manual_seed(seed)
    tokens = GRID[0] * GRID[1]
    rows = [[1, 5, *[IMAGE] * tokens, *torch.randint(6, WORDS, (3 + 2 * row,)).tolist()] for row in range(batch)]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(batch, 3, SIDE, SIDE)}


def tiled() -> dict[str, torch.Tensor]:
    """A question about one image in two tiles for `llava_next`."""
    torch.manual_seed(3)
    rows, columns = GRID
    tokens = rows * columns + rows * (2 * columns + 1)
    ids = torch.tensor([[1, 5, *[IMAGE] * tokens, 7, 8, 9]])
    pixels = torch.randn(1, 3, 3, SIDE, SIDE)
    sizes = torch.tensor([[SIDE, 2 * SIDE]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "image_sizes": sizes}


def one(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One row of a batch, without its padding."""
    start = int((inputs["attention_mask"][row] == 0).sum())
    return {key: x[row : row + 1, start:] if key != "pixel_values" else x[row : row + 1] for key, x in inputs.items()}
