"""Sentences to vectors by a model of transformers that pairs images with texts, through the tokenizer of its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.errors import UserError
from fna.models import weights
from fna.models.hf_runs import vectors
from fna.models.text import TEXT_BATCH, TOKENIZER_FILES


def text_encoder(net: Any, folder: Path, device: torch.device) -> Callable[[Sequence[str]], Tensor]:
    """Sentences to vectors ``[T, E]`` in pieces of a fixed size; the tokenizer is made when first needed."""
    made: list[Any] = []

    def encode(sentences: Sequence[str]) -> Tensor:
        if not made:
            made.append(_tokenizer(folder))
        found = []
        for start in range(0, len(sentences), TEXT_BATCH):
            piece = list(sentences[start : start + TEXT_BATCH])
            length = net.config.text_config.max_position_embeddings
            words = made[0](piece, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            # SigLIP was trained without a mask over its padding, CLIP reads up to the end of the text only
            kept = ("input_ids", "attention_mask") if type(net).__name__ == "CLIPModel" else ("input_ids",)
            found.append(vectors(net.get_text_features(**{key: words[key].to(device) for key in kept})))
        return torch.cat(found)

    return encode


def _tokenizer(folder: Path) -> Any:
    import transformers

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder}: holds no tokenizer ({', '.join(TOKENIZER_FILES[:3])}), which texts need; "
            "give a folder that has one with model.tokenizer=FOLDER."
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each kind of tokenizer has its own
        raise UserError(
            f"{folder}: its tokenizer cannot be read ({weights.first_line(error)}); give model.tokenizer=FOLDER."
        ) from error
