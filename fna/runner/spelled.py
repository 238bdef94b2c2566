"""Paths in a config as the disk writes them: é may be typed as one sign, and be e with an accent in the name of the folder."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fna.data.places import existing

GROUPS = ("dataset", "model", "task")
LOCAL = "local-dir:"  # open_clip's word before a folder, in the place of a name
LABELS = frozenset({"name", "_target_"})  # texts that name no place


def as_on_disk(cfg: DictConfig) -> DictConfig:
    """``cfg`` with each path of a group that is not there written as the one that is, where accents alone tell them apart.

    Paths lie in the folder that the command is called from, or in the group's ``root``.
    """
    copy = cfg.copy()
    for node in (copy.get(group) for group in GROUPS):
        bases = [Path()]
        given = [str(key) for key in node if not OmegaConf.is_missing(node, key)]  # what has to be typed is asked for elsewhere
        if "root" in given and isinstance(root := node.root, str):
            node.root = _spelled(root, Path())
            bases.insert(0, Path(node.root))
        for key in given:
            if isinstance(value := node[key], str) and key not in {"root", *LABELS}:
                node[key] = next((other for base in bases if (other := _spelled(value, base)) != value), value)
    if isinstance(name := copy.model.get("name"), str):  # a network, or the folder that holds one
        before = LOCAL if name.startswith(LOCAL) else ""
        copy.model.name = before + _spelled(name.removeprefix(before), Path())
    return copy


def _spelled(text: str, base: Path) -> str:
    """``text``, or where it is no place in ``base`` the one that differs from it in how accents are written."""
    place = base / text
    found = place if text.isascii() else existing(place)
    if found == place:
        return text
    return str(found) if os.path.isabs(text) else os.path.relpath(found, base)
