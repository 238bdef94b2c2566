"""BERTScore of answers with reference answers (Zhang et al. 2020, arXiv 1904.09675), by bert_score, imported when it is needed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fna.errors import UserError
from fna.records import refuse_mark

LONGEST = 512  # tokens of a text that are read: what BERT-like encoders have positions for


def check_bert(model: str) -> None:
    """Raise `UserError` where the library, or the encoder's folder, is not there."""
    if importlib.util.find_spec("bert_score") is None:
        raise UserError(f"task.bert={model}: BERTScore is computed by bert_score, which is not installed: pip install bert_score.")
    path = Path(model)
    if (len(path.parts) > 2 or model.startswith(".") or path.is_dir()) and not (path / "config.json").is_file():
        raise UserError(f"task.bert={model}: no folder with a config.json, and no name on the hub (OWNER/MODEL).")
    if path.is_dir():
        refuse_mark(path, "transformers")


def bert_f1(said: Sequence[str], references: Sequence[str], model: str, layer: int | None) -> np.ndarray:
    """F1 of each answer, float64 ``[n]``, 1 for the same words; without the library's rescaling, as in the paper of FNA."""
    from bert_score import BERTScorer
    from bert_score.utils import model2layers

    depth = layer if layer is not None or model in model2layers else _depth(Path(model))
    scorer: Any = BERTScorer(model_type=model, num_layers=depth, device="cpu")
    # The library truncates to what the tokenizer says, which is 1e30 where it says nothing, and that no tokenizer takes.
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, LONGEST)
    # An empty answer has no words to compare; the library would warn and give 0.
    return np.asarray(scorer.score([text or "." for text in said], list(references))[2].tolist(), np.float64)


def _depth(folder: Path) -> int:
    """Layers of the encoder in a folder."""
    try:
        return int(json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))["num_hidden_layers"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"task.bert={folder}: its config.json names no num_hidden_layers; give task.bert_layer=N.") from error
