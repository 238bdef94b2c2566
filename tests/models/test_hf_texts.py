"""Texts of a model of transformers: which of them are longer than its text tower reads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from fna.models.hf_texts import PairTexts

LENGTH = 4


def words(folder: Path) -> Path:
    """A tokenizer of a word a token."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "red": 2, "circle": 3}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return folder


def test_texts_of_more_tokens_than_the_tower_has_places_are_told(tmp_path: Path) -> None:
    net: Any = SimpleNamespace(config=SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=LENGTH)))
    texts = PairTexts(net, words(tmp_path), torch.device("cpu"))
    fitting, long = "red circle red circle", "red circle red circle red"
    assert list(texts.cut([fitting, long, "red", long])) == [long]
    assert texts.cut(["red"]) == {}
