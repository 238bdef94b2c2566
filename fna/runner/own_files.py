"""Numbers in YAML files of one's own that are to be texts: YAML 1.1 reads ``root: 1_000`` as 1000, another folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from fna.configs import CONF, load_option
from fna.errors import UserError
from fna.options import INTEGER
from fna.runner.remedies import Known, Options, takes
from fna.values import held, made_text


def _becomes_text(kind: Any, value: Any) -> bool:
    """Whether a text of another spelling is made of a number where that kind is wanted."""
    return takes(kind, value) and made_text(held(kind, value, ""), value)


def check_numbers(
    options: Options, kind: Callable[[str], Any], typed: Collection[str], known: Known, extra: Sequence[Path]
) -> None:
    """Raise `UserError` for a whole number in a chosen option's own file that stands for a text and that YAML reads as another.

    ``kind``: what a key takes; ``typed``: keys that the command line gives, whose values in files count for nothing.
    """
    for group, names in options.items():
        for name in names:
            load_option(group, name, extra)  # refuses what is no YAML, or leads back to itself
            for file in _lineage(name, known[group]):
                _check_file(file, "" if group == "experiment" else f"{group}.", kind, typed)


def _lineage(name: str, known: Mapping[str, Path]) -> Iterator[Path]:
    """The files of an option and of those that it builds on, fna's own apart."""
    file = known[name]
    if CONF not in file.resolve().parents:
        yield file
        listed = OmegaConf.select(OmegaConf.load(file), "defaults") or []
        for entry in (entry for entry in listed if isinstance(entry, str) and entry != "_self_"):
            yield from _lineage(entry, known)


def _check_file(file: Path, above: str, kind: Callable[[str], Any], typed: Collection[str]) -> None:
    node = yaml.compose(file.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    for key, text in _odd_numbers(node, above):
        if key not in typed and _becomes_text(kind(key), read := yaml.safe_load(text)):
            raise UserError(f"{file}: {key.removeprefix(above)}: {text} is the number {read} to YAML; put it in quotes: '{text}'.")


def _odd_numbers(node: Any, above: str) -> Iterator[tuple[str, str]]:
    """Dotted key and text of every whole number that is read as another than stands there."""
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        key = f"{above}{name.value}"
        for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if one.tag == INTEGER and str(yaml.safe_load(one.value)) != one.value:
                yield key, one.value
        yield from _odd_numbers(value, f"{key}.")
