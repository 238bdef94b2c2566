"""What the models with a text tower share: the pieces that texts are encoded in, and which files make a tokenizer."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TEXT_BATCH = 256
SYLLABIC = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA")  # scripts whose signs are words or syllables
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json", "merges.txt", "tokenizer_config.json")


def texts_digest(folder: Path) -> str | None:
    """What tells a folder's tokenizer from another one, twelve letters; None where there is none."""
    there = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    content = b"".join(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes() for file in there)
    return hashlib.sha256(content).hexdigest()[:12] if there else None


def may_be_cut(sentences: Sequence[str], length: int) -> list[str]:
    """Those, each once, that may be of more than ``length`` tokens: two are start and end, each other is a byte at least."""
    return [text for text in dict.fromkeys(sentences) if len(text.encode()) + 2 > length]


def foreign(texts: Sequence[str]) -> list[str]:
    """Those, each once, most of whose letters are not of the Latin alphabet."""
    return [text for text in dict.fromkeys(texts) if not text.isascii() and 2 * len(_other_letters(text)) > len(_letters(text))]


def is_spelt(text: str, tokens: int) -> bool:
    """Whether so many tokens are a text taken apart: a letter or more each, where a sign is a word or syllable 1.2 and more."""
    letters = _other_letters(text)
    signs = sum(unicodedata.name(letter, "").startswith(SYLLABIC) for letter in letters)
    most = 1.2 if 2 * signs > len(letters) else 0.9
    return tokens >= most * len(_letters(text))


def _letters(text: str) -> list[str]:
    """Letters, and the signs that are written into them."""
    return [sign for sign in text if unicodedata.category(sign)[0] in "LM"]


def _other_letters(text: str) -> list[str]:
    return [sign for sign in _letters(text) if not unicodedata.name(sign, "LATIN").startswith(("LATIN", "COMBINING"))]


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

    def cut(self, sentences: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Those of which the tower reads the beginning only, with the tokens that it reads: with room for one more they begin
        otherwise."""
        length = getattr(self.tokenizer, "context_length", None) or 0
        long = may_be_cut(sentences, length) if length else []
        if not long:
            return {}
        read, wider = self.tokenizer(long), self.tokenizer(long, length + 1)[:, :length]
        differs = (read != wider).any(dim=1).tolist()
        return {text: tuple(row) for text, row, other in zip(long, read.tolist(), differs, strict=True) if other}

    def spelt(self, sentences: Sequence[str]) -> list[str]:
        """Those in another script than the Latin that the vocabulary has no words of: their tokens are single letters or bytes."""
        texts = foreign(sentences)
        own = getattr(self.tokenizer, "tokenizer", None) if texts else None  # open_clip's holder of a Hugging Face tokenizer
        if own is not None:
            return spelt_by(own, texts)
        split = getattr(self.tokenizer, "encode", None) if texts else None
        return [text for text in texts if split is not None and is_spelt(text, len(split(text)))]


def spelt_by(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Of ``texts`` in other scripts those that a Hugging Face tokenizer takes apart, or has a letter of that it does not know."""
    numbers = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    unknown = tokenizer.unk_token_id
    return [
        text
        for text, each in zip(texts, numbers, strict=True)
        if is_spelt(text, len(each)) or (unknown is not None and unknown in each)
    ]
