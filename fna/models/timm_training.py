"""What a training script writes into a checkpoint beside the weights: of which network they are and how pixels were treated."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.errors import UserError
from fna.values import held

# Where timm's train.py, Lightning and most scripts keep their settings, and what they call a network there.
PLACES = ("args", "hyper_parameters", "hparams", "config", "cfg")
NETWORKS = ("arch", "architecture", "model", "model_name", "backbone", "encoder")
POOLS = ("gp", "global_pool")


def said(loaded: Any) -> dict[str, Any]:
    """The settings in a loaded checkpoint by name, of which ``arch`` at its top counts most; empty where it has none."""
    found: dict[str, Any] = {}
    if isinstance(loaded, Mapping):
        for place in PLACES:
            inner = loaded.get(place)
            inner = vars(inner) if isinstance(inner, argparse.Namespace) else inner
            found = {**inner, **found} if isinstance(inner, Mapping) else found
        found |= {key: loaded[key] for key in NETWORKS if isinstance(loaded.get(key), str)}
    return {str(key): value for key, value in found.items()}


def notes(
    path: str, said: Mapping[str, Any], name: str, run_as: Mapping[str, Any], kinds: Mapping[str, Any], fits: Callable[[str], bool]
) -> list[str]:
    """What a checkpoint says of its training that is not how it is run: another network of timm's, other pixels, another pooling.

    ``run_as``: what is done to pixels, and ``pool``. ``kinds``: what each of these takes, so that words of other scripts are passed
    over. ``fits``: whether a network of timm's has a place for the tensors.
    """
    import timm

    file, made = Path(path).name, []
    networks = [said[key] for key in NETWORKS if isinstance(said.get(key), str) and timm.is_model(said[key].partition(".")[0])]
    if networks and networks[0].partition(".")[0] != name.partition(".")[0] and fits(networks[0]):
        made.append(f"{file} says that it was trained as {networks[0]}, run as {name}: model.name={networks[0]} follows it")
    pool = next((said[key] for key in POOLS if said.get(key)), None)
    told_of = {key: value for key in kinds if (value := pool if key == "pool" else said.get(key)) is not None}
    other = {key: value for key, value in told_of.items() if _taken(kinds[key], value) and not _same(value, run_as.get(key))}
    if other:
        told = ", ".join(f"{key} {_plain(value)}" for key, value in other.items())
        follow = " ".join(f"model.{key}={_plain(value)}" for key, value in other.items())
        made.append(f"{file} says that it was trained with {told}, and is run otherwise: {follow} follows it")
    return made


def _taken(kind: Any, value: Any) -> bool:
    try:
        held(kind, value, "")
    except UserError:
        return False
    return True


def _same(one: Any, other: Any) -> bool:
    try:
        return all(abs(float(a) - float(b)) < 1e-3 for a, b in zip(_listed(one), _listed(other), strict=True))
    except (TypeError, ValueError):
        return bool(one == other)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _plain(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
