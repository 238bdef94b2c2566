"""What a training script writes into a checkpoint beside the weights: of which network they are and how pixels were treated."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fna.errors import UserError
from fna.values import held

# Where timm's train.py, Lightning and most scripts keep their settings, and what they call a network there.
PLACES = ("args", "hyper_parameters", "hparams", "config", "cfg")
NETWORKS = ("arch", "architecture", "model", "model_name", "backbone", "encoder")
POOLS = ("gp", "global_pool")
OPTIONS = ("model_kwargs", "model_args")  # what a network was made with beside its name
SEEN = {"num_classes", "img_size", "global_pool"}  # of these, what tensors show or is told by itself
IDLE = ("Dropout", "DropPath", "PatchDropout", "PatchDropoutWithIndices", "Identity")  # modules that do nothing in eval mode


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
    pool = next((said[key] for key in POOLS if said.get(key)), options(said).get("global_pool"))
    told_of = {key: value for key in kinds if (value := pool if key == "pool" else said.get(key)) is not None}
    other = {key: value for key, value in told_of.items() if _taken(kinds[key], value) and not _same(value, run_as.get(key))}
    if other:
        told = ", ".join(f"{key} {_plain(value)}" for key, value in other.items())
        follow = " ".join(f"model.{key}={_plain(value)}" for key, value in other.items())
        made.append(f"{file} says that it was trained with {told}, and is run otherwise: {follow} follows it")
    return made


def options(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says that its network was made with beside its name; empty where it does not."""
    return next((dict(said[key]) for key in OPTIONS if isinstance(said.get(key), Mapping)), {})


def made_note(path: str, said: Mapping[str, Any], name: str, net: nn.Module, made: Callable[..., nn.Module]) -> str:
    """That a network was made with options that no tensor shows and ``net`` was not, such as its number of heads; else empty.

    ``made``: ``net`` again, with further options of timm's.
    """
    others: dict[str, Any] = {}
    for key, value in options(said).items():
        try:
            with torch.device("meta"):
                differs = key not in SEEN and value is not None and _acts(made(**{key: value})) != _acts(net)
        except Exception:  # words of another script, which timm takes for none of its options
            continue
        others |= {key: value} if differs else {}
    if not others:
        return ""
    told = ", ".join(f"{key}={_plain(value)}" for key, value in others.items())
    config = json.dumps({"architecture": name.partition(".")[0], "model_args": others}, default=str)
    return (
        f"{Path(path).name} says that its network was made with {told}, which no tensor shows and this one was not: a folder of "
        f"it, as pytorch_model.bin, and a config.json of {config} follows it"
    )


def size_note(path: str, said: Mapping[str, Any], run_at: Sequence[int]) -> str:
    """That a network was trained on images of another size than it is ``run_at``, (rows, columns) in px; else empty."""
    size = next((found for key in ("input_size", "img_size") if (found := said.get(key) or options(said).get(key))), None)
    sides = [size, size] if isinstance(size, int) else list(size)[-2:] if isinstance(size, Sequence) else []
    if isinstance(size, str) or not sides or not all(isinstance(side, int) and side > 0 for side in sides) or sides == list(run_at):
        return ""
    told, run = (" x ".join(map(str, one)) for one in (sides, run_at))
    wanted = str(sides[0]) if sides[0] == sides[1] else _plain(sides)
    return f"{Path(path).name} says that it was trained on {told} px, and is run at {run}: image_size={wanted} follows it"


def _acts(net: nn.Module) -> list[tuple[Any, ...]]:
    """What a network does in eval mode beside its tensors: the plain settings of its modules, and their classes."""
    return [
        (name, type(module).__name__, *sorted((key, repr(value)) for key, value in vars(module).items() if _is_setting(key, value)))
        for name, module in net.named_modules()
        if type(module).__name__ not in IDLE
    ]


def _is_setting(key: str, value: Any) -> bool:
    return isinstance(value, bool | int | float | str | tuple) and key != "training" and "drop" not in key


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
