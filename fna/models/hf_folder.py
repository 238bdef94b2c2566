"""A model that transformers itself loads, from a folder or the hub: whole and of the right shapes, or one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fna.errors import UserError, is_memory
from fna.models.hf_files import model_config
from fna.models.weights import downloading, first_line


@contextmanager
def reading(folder: Path | None, name: str) -> Iterator[None]:
    """Let transformers read ``folder`` (or file), or fetch ``name`` from the hub (None): whatever it raises becomes one line."""
    if folder is None:
        with downloading(f"model.checkpoint={name}"):
            yield
        return
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of a damaged file its readers raise whatever its bytes lead to
        if is_memory(error):
            raise
        if isinstance(how := _quantised(folder), str):
            raise UserError(
                f"{folder}: its weights are quantised ({how}; {first_line(error)}); give the model in 16 bits."
            ) from error
        raise UserError(
            f"{folder}: transformers cannot read it ({first_line(error)}); fetch it again, or save it again with save_pretrained."
        ) from error


def _quantised(folder: Path) -> str | None:
    """By which method the weights in a folder are quantised, as its config.json says; None where it says nothing."""
    try:
        said = model_config(folder if folder.is_dir() else folder.parent).get("quantization_config")
    except UserError:
        return None
    return str(said.get("quant_method", "unnamed")) if isinstance(said, dict) else None


def pretrained(kind: Any, where: str, **options: Any) -> Any:
    """``kind.from_pretrained(where)``. Raises `UserError` for tensors that are missing or of another shape.

    transformers draws missing ones at random, and says so in its log alone.
    """
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of missing tensors is told below in a line
    try:
        net, told = kind.from_pretrained(where, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    finally:
        logging.set_verbosity(before)
    if other := sorted(told["mismatched_keys"]):
        name, found, wanted = other[0]
        raise UserError(
            f"{where}: {name} is {list(found)}, expected {list(wanted)} by its config.json ({len(other)} of another shape); give "
            "the config that was saved with the weights."
        )
    if missing := sorted(told["missing_keys"]):
        raise UserError(f"{where}: of its tensors {len(missing)} are missing (first: {missing[0]}); fetch it again.")
    return net


def identified(net: Any, tokenizer: Any) -> dict[str, str]:
    """What tensors do not show of a model that writes: digests of its settings, those of ``generate`` too, and of its tokenizer.

    Of the settings as transformers understood them, so that another release's defaults are another model, wherever it lies.
    """
    made = [net.config.to_dict(), net.generation_config.to_dict()]
    said = getattr(tokenizer, "backend_tokenizer", None)
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True) if said is None else said.to_str()
    settings = json.dumps(_anywhere(made), sort_keys=True, default=str)
    return {"architecture": _digest(settings), "tokenizer": _digest(f"{words}\n{tokenizer.special_tokens_map}")}


def _anywhere(node: Any) -> Any:
    """Settings without the place and the release that they were saved by."""
    if isinstance(node, dict):
        return {str(key): _anywhere(value) for key, value in node.items() if key not in ("_name_or_path", "transformers_version")}
    return [_anywhere(value) for value in node] if isinstance(node, list) else node


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
