"""Runs that were started and never finished: Hydra noted their words, and no result.json came of it."""

from __future__ import annotations

import shlex
from collections.abc import Container
from pathlib import Path
from typing import Any

import yaml

from fna.options import program
from fna.records import regular

NOTED = ".hydra/overrides.yaml"


def unfinished(root: Path, finished: Container[tuple[str, ...]]) -> dict[Path, dict[str, Any]]:
    """The folders of such runs at or below ``root``, and for each what stands in place of its result.

    ``finished``: the words of whole runs; what was made again since, in whatever folder, is not told.
    """
    found = {}
    for noted in root.rglob(NOTED):
        folder, words = noted.parent.parent, noted_words(noted.parent.parent)
        if words is not None and tuple(words) not in finished and not (folder / "result.json").exists():
            why = f"started, never finished (or still running): {_again(folder, words)}"
            found[folder] = {"status": "unfinished", "error": why}
    return found


def _again(folder: Path, words: list[str]) -> str:
    sweep = _read(folder.parent / "multirun.yaml")
    try:
        told = [str(word) for word in sweep["hydra"]["overrides"]["task"]]
    except (KeyError, TypeError):
        command = [*shlex.split(program()), *words]
    else:
        command = [*shlex.split(program()), "-m", *told, f"hydra.sweep.dir={folder.parent}"]
    return f"{shlex.join(command)} goes on with it, finished rows stay"


def noted_words(folder: Path) -> list[str] | None:
    """The words of the last run in a folder, as Hydra noted them; None where it did not."""
    found = _read(folder / NOTED)
    return [str(word) for word in found] if isinstance(found, list) else None


def _read(path: Path) -> Any:
    """What a YAML file holds; None where it is not there, or makes no sense."""
    try:
        return yaml.safe_load(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
