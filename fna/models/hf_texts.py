"""Sentences to vectors by a model of transformers that pairs images with texts, through the tokenizer of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.errors import UserError
from fna.models import weights
from fna.models.hf_runs import vectors
from fna.models.text import TEXT_BATCH, TOKENIZER_FILES, foreign, may_be_cut, spelt_by
from fna.records import refuse_mark


def sees_padding(net: Any) -> bool:
    """Whether a text tower was trained without a mask over its padding, as those of SigLIP were."""
    return type(net).__name__.startswith("Siglip")


@dataclass
class PairTexts:
    """The text side of ``net``; the tokenizer in ``folder`` is read when first needed."""

    net: Any
    folder: Path
    device: torch.device

    @cached_property
    def tokenizer(self) -> Any:
        """The one that the folder holds."""
        return _tokenizer(self.folder)

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Vectors ``[T, E]``, in pieces of a fixed size."""
        found = []
        for start in range(0, len(sentences), TEXT_BATCH):
            piece = list(sentences[start : start + TEXT_BATCH])
            words = self.tokenizer(piece, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt")
            kept = ("input_ids",) if sees_padding(self.net) else ("input_ids", "attention_mask")
            found.append(vectors(self.net.get_text_features(**{key: words[key].to(self.device) for key in kept})))
        return torch.cat(found)

    def cut(self, sentences: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Those of which the tower reads the beginning only, with the tokens that it reads."""
        long = may_be_cut(sentences, self._length)
        numbers = self.tokenizer(long, verbose=False)["input_ids"] if long else []
        over = [text for text, each in zip(long, numbers, strict=True) if len(each) > self._length]
        read = self.tokenizer(over, truncation=True, max_length=self._length)["input_ids"] if over else []
        return {text: tuple(each) for text, each in zip(over, read, strict=True)}

    def spelt(self, sentences: Sequence[str]) -> list[str]:
        """Those in a script that the vocabulary has no words of."""
        texts = foreign(sentences)
        return spelt_by(self.tokenizer, texts) if texts else []

    @property
    def _length(self) -> int:
        return int(self.net.config.text_config.max_position_embeddings)


def _tokenizer(folder: Path) -> Any:
    import transformers

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder}: holds no tokenizer ({', '.join(TOKENIZER_FILES[:3])}), which texts need; "
            "give a folder that has one with model.tokenizer=FOLDER."
        )
    refuse_mark(folder, "transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each kind of tokenizer has its own
        raise UserError(
            f"{folder}: its tokenizer cannot be read ({weights.first_line(error)}); give model.tokenizer=FOLDER."
        ) from error
