"""What the models with a text tower share: the pieces that texts are encoded in, and which files make a tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TEXT_BATCH = 256
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json", "merges.txt", "tokenizer_config.json")


def texts_digest(folder: Path) -> str | None:
    """What tells a folder's tokenizer from another one, twelve letters; None where there is none."""
    there = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    content = b"".join(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes() for file in there)
    return hashlib.sha256(content).hexdigest()[:12] if there else None


def may_be_cut(sentences: Sequence[str], length: int) -> list[str]:
    """Those, each once, that may be of more than ``length`` tokens: two are start and end, each other is a byte at least."""
    return [text for text in dict.fromkeys(sentences) if len(text.encode()) + 2 > length]


@dataclass
class Texts:
    """The text side of an open_clip model ``net``; the tokenizer is made when first needed."""

    net: Any
    device: torch.device
    make: Callable[[], Any]

    @cached_property
    def tokenizer(self) -> Any:
        """Texts to ``[T, length]`` numbers, cut where they are longer."""
        return self.make()

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Vectors ``[T, E]``, in pieces of a fixed size."""
        pieces = [list(sentences[start : start + TEXT_BATCH]) for start in range(0, len(sentences), TEXT_BATCH)]
        return torch.cat([self.net.encode_text(self.tokenizer(piece).to(self.device)) for piece in pieces])

    def cut(self, sentences: Sequence[str]) -> list[str]:
        """Those of which the tower reads the beginning only: with room for one token more they begin otherwise."""
        length = getattr(self.tokenizer, "context_length", None) or 0
        long = may_be_cut(sentences, length) if length else []
        if not long:
            return []
        wider = self.tokenizer(long, length + 1)[:, :length]
        return [text for text, differs in zip(long, (self.tokenizer(long) != wider).any(dim=1).tolist(), strict=True) if differs]
