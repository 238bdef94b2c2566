"""The head in a checkpoint of a vision transformer, under whatever name: one linear layer of classes, or what else it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fna.models.checkpoints import Checkpoint
from fna.values import counted

HEAD = ("head.weight", "head.bias")
# What libraries and people call it; the second word may be "head.1", "head.fc", "heads.head", "classifier.1".
WORDS = frozenset(("head", "heads", "fc", "classifier", "classification_head", "cls_head", "head_cls", "class_head", "clf")).union(
    ("linear_head", "lin_head", "mlp_head", "last_linear", "linear")
)
DISTILLED = "head_dist"  # the second of a distilled DeiT
RUNNING = ("running_mean", "running_var")  # of a BatchNorm
# Of a BatchNorm before a linear head, by whether it has a scale of its own: MAE's probe has none and 1e-6, else torch's own.
EPS = {False: 1e-6, True: 1e-5}
SECOND = (f"{DISTILLED}.weight", f"{DISTILLED}.bias")
UNLABELLED = frozenset({"mlp", "last_layer"})  # in the projection heads of DINO and its kin


def of_a_head(name: str) -> bool:
    """Whether a tensor of a network, by its name there, is one of a head."""
    return name.split(".")[0] in WORDS | {DISTILLED}


def adopted(found: Checkpoint, state: Mapping[str, Tensor], net: Any) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The tensors with a head of classes under timm's names, where they have one under another, and what was found without it.

    Such a head is one linear layer of the width of ``net``, with or without a bias, alone in what it lies in but for a BatchNorm
    right before it, and the only one of that kind; it may lie beside the network that ``found`` was taken from (``fc`` beside
    ``backbone``). A BatchNorm is multiplied into the layer, whose logits are those of both.
    """
    if not isinstance(net.head, nn.Linear | nn.Identity) or {*HEAD} <= state.keys():
        return found, dict(state)
    heads = {name: found.left[name] for name in found.left if _beside(name, found.part)}
    heads |= {name: tensor for name, tensor in state.items() if of_a_head(name)}
    groups = [{name: heads[name] for name in names} for names in _groups(heads)]
    linear = [(group, layer) for group in groups if (layer := _linear(group, net.embed_dim)) is not None]
    if len(linear) != 1:
        return found, dict(state)
    ((group, layer),) = linear
    left = {name: tensor for name, tensor in found.left.items() if name not in group}
    kept = {name: tensor for name, tensor in state.items() if name not in group}
    return replace(found, left=left, taken=_taken(group)), kept | dict(zip(HEAD, layer, strict=True))


def with_second(state: Mapping[str, Tensor], net: Any) -> dict[str, Tensor]:
    """The tensors with zeros for the bias that a distilled network's second head has in ``net`` and not in them."""
    weight, bias = (state.get(name) for name in SECOND)
    if weight is None or bias is not None or SECOND[1] not in net.state_dict():
        return dict(state)
    return {**state, SECOND[1]: weight.new_zeros(len(weight))}


def has_one(names: Collection[str]) -> bool | None:
    """Whether the tensors of these names have a head of classes, as far as names tell; None where several may be meant."""
    whole = [name for name in names if name.endswith(("head.weight", "classifier.weight"))]
    if whole:
        return True
    groups = [_layers(group) for group in _groups(names)]
    may_be = [layers for layers in groups if any(map(_normalizes, layers.values()))]
    single = [layers for layers in groups if len(layers) == 1]
    return None if may_be or len(single) > 1 else bool(single)


def in_words(state: Mapping[str, Tensor], names: Collection[str]) -> str:
    """What the tensors ``names`` of a head are: of classes, of training without labels (MoCo, DINO), or of several layers."""
    if all(name.count(".") == 1 for name in names):
        return f"head of {state[next(iter(names))].shape[0]} classes"
    if is_projection(state, names):
        return f"projection head, which training without labels leaves ({counted(len(names), 'tensor')}),"
    return f"head of {layers(state, names)}"


def says_left(note: str) -> bool:
    """Whether a note says that a head was left out."""
    return "was left out" in note and any(f": its {kind} " in note for kind in ("head of", "projection head,"))


def layers(state: Mapping[str, Tensor], names: Collection[str]) -> str:
    """The layers of a head by name, and which of them normalise: "several layers (head.0 (LayerNorm), head.3; 4 tensors)"."""
    found = {name: _kind({leaf: state[tensor] for leaf, tensor in layer.items()}) for name, layer in _layers(names).items()}
    what = "several layers" if len(found) > 1 else "another kind"
    shown = [name + kind for name, kind in found.items()]
    return f"{what} ({', '.join(shown[:4])}{', ...' if len(shown) > 4 else ''}; {counted(len(names), 'tensor')})"


def is_projection(state: Mapping[str, Tensor], names: Collection[str]) -> bool:
    """Whether a head is one that training without labels leaves: DINO's by its names, MoCo's by several layers, the last of them
    without a bias."""
    if any(UNLABELLED.intersection(name.split(".")) for name in names):
        return True
    matrices = [name for name in names if name.endswith(".weight") and state[name].dim() == 2]
    return len(matrices) > 1 and matrices[-1].removesuffix("weight") + "bias" not in names


def _layers(names: Collection[str]) -> dict[str, dict[str, str]]:
    """The names of tensors by layer, and there by what each is to it (weight, bias, running_mean)."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        layer, _, leaf = name.rpartition(".")
        found[layer][leaf] = name
    return found


def _normalizes(layer: Collection[str]) -> bool:
    return "running_var" in layer


def _kind(layer: Mapping[str, Tensor]) -> str:
    """What kind of normalisation a layer is, in words; empty for any other layer."""
    if _normalizes(layer):
        return " (BatchNorm)"
    return " (LayerNorm)" if "weight" in layer and layer["weight"].dim() == 1 else ""


def _groups(names: Collection[str]) -> list[list[str]]:
    """Names of heads by the first word that says so and what stands before it, each with its weight first."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        words = name.split(".")
        at = _place(words)
        if at is not None and not any(map(str.isdigit, words[:at])):  # those in a block are layers of it
            found[".".join(words[: at + 1])].append(name)
    return [sorted(group, key=lambda name: (not name.endswith(".weight"), name)) for group in found.values()]


def _linear(group: Mapping[str, Tensor], width: int) -> tuple[Tensor, Tensor] | None:
    """``weight [classes, width]`` and ``bias [classes]`` of the linear layer that a head is, zeros where it has no bias, with a
    BatchNorm right before it multiplied into them; None where the head is of other layers."""
    found = {name: {leaf: group[tensor] for leaf, tensor in layer.items()} for name, layer in _layers(group).items()}
    (*before, last) = sorted(found, key=lambda name: ("weight" in found[name] and found[name]["weight"].dim() > 1, name))
    layer = found[last]
    weight = layer.get("weight")
    plain = layer.keys() <= {"weight", "bias"} and not UNLABELLED.intersection(last.split("."))
    if weight is None or not plain or weight.dim() != 2 or weight.shape[1] != width:
        return None
    bias = layer.get("bias", weight.new_zeros(len(weight)))
    if bias.shape != weight.shape[:1]:
        return None
    if not before:
        return weight, bias
    if len(before) > 1 or not _right_before(before[0], last) or not _is_batch_norm(found[before[0]], width):
        return None
    return _folded(found[before[0]], weight, bias)


def _right_before(first: str, second: str) -> bool:
    """Whether two layers follow one another in an nn.Sequential: head.0, head.1. Between head.0 and head.2 there may be a ReLU."""
    (above, number), (other, following) = (name.rpartition(".")[::2] for name in (first, second))
    return above == other and number.isdecimal() and following.isdecimal() and int(following) == int(number) + 1


def _is_batch_norm(layer: Mapping[str, Tensor], width: int) -> bool:
    """Whether tensors are all of a BatchNorm over ``width`` channels, with or without a scale and a shift."""
    kept = [tensor for leaf, tensor in layer.items() if leaf != "num_batches_tracked"]
    whole = layer.keys() - {"num_batches_tracked"} in ({*RUNNING}, {*RUNNING, "weight", "bias"})
    return whole and all(tensor.shape == (width,) for tensor in kept)


def _folded(norm: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One linear layer that does what a BatchNorm in eval mode and a linear layer do, counted in float64."""
    mean, var = (norm[name].double() for name in RUNNING)
    scale = (var + EPS["weight" in norm]).rsqrt() * norm.get("weight", torch.ones_like(var)).double()
    shift = norm.get("bias", torch.zeros_like(mean)).double() - mean * scale
    return (weight.double() * scale).to(weight.dtype), (bias.double() + weight.double() @ shift).to(bias.dtype)


def _taken(group: Mapping[str, Tensor]) -> str:
    """What was taken for the head, in words; empty where that is as timm has it."""
    found = _layers(group)
    norm = next((name for name, layer in found.items() if _normalizes(layer)), None)
    linear = [tensor for name, layer in found.items() if name != norm for tensor in layer.values()]
    said = f"took {' and '.join(linear)} as {' and '.join(HEAD[: len(linear)])}" if linear != [*HEAD][: len(linear)] else ""
    if norm is None:
        return said
    eps = f"eps {EPS['weight' in found[norm]]:g}, which files do not say"
    return f"{said}, with {norm}, a BatchNorm right before it ({eps}), multiplied into them"


def _beside(name: str, part: str) -> bool:
    """Whether a tensor outside a part is of a head that lies beside it or above: ``model.fc`` is for ``model.backbone``."""
    words, above = name.split("."), part.split(".") if part else []
    at = _place(words)
    return at is not None and words[:at] == above[:at]


def _place(words: list[str]) -> int | None:
    """Where a name begins to be a head's."""
    return next((place for place, word in enumerate(words[:-1]) if word in WORDS), None)
