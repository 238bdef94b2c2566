"""BERTScore of answers by an encoder in a folder; what is missing is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.errors import UserError
from fna.metrics.bert import bert_f1, check_bert


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "star", "blue", "dog", "the", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, classifier_dropout=0.1, **sizes)
    BertModel(config).save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_same_words_are_one_and_others_less(encoder: str) -> None:
    pytest.importorskip("bert_score")
    check_bert(encoder)
    same, other, nothing = bert_f1(["a red star", "the blue dog", ""], ["a red star", "a red star", "a red star"], encoder, None)
    assert same == pytest.approx(1, abs=1e-5)
    assert nothing < 1
    assert other < 0.99


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bert_score"):
        check_bert("roberta-large")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UserError, match=r"no folder with a config\.json"):
        check_bert(str(tmp_path))
