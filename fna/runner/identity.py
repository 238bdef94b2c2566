"""What of the config decides a row: a group's node without the keys that only say where files lie or how calls are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fna.runner.files import digest_texts

# Where a file lies does not decide a result: its content does, and that is in the digests of weights and data. Nor does how often
# and how long somebody is asked ("calls"): what is answered does.
PATH_KEYS = frozenset({"root", "checkpoint", "images", "annotations", "cache", "calls", "classes", "config", "tokenizer"})


def identity(cfg: DictConfig, group: str) -> Any:
    """The resolved node of a group as plain data, without the keys that only say where files lie."""
    return _without_paths(OmegaConf.to_container(cfg[group], resolve=True)) if cfg[group] is not None else None


def model_config(cfg: DictConfig) -> dict[str, Any]:
    """The `identity` of the model's node, with what the folders say that it names: of a tokenizer, of an open_clip config."""
    kind, _, local = str(cfg.model.get("name")).partition(":")
    named = {"tokenizer": cfg.model.get("tokenizer"), "local-dir": local if kind == "local-dir" else None}
    folders = {what: Path(folder) for what, folder in named.items() if folder is not None}
    return identity(cfg, "model") | {what: digest_texts(folder) for what, folder in folders.items()}


def _without_paths(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_paths(value) for key, value in node.items() if key not in PATH_KEYS}
    return [_without_paths(value) for value in node] if isinstance(node, list) else node
