"""The head in a checkpoint of a vision transformer, under whatever name: one linear layer of classes, or what else it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fna.models.checkpoints import Checkpoint
from fna.values import counted

HEAD = ("head.weight", "head.bias")
# What libraries and people call it; the second word may be "head.1", "head.fc", "heads.head", "classifier.1".
WORDS = frozenset(("head", "heads", "fc", "classifier", "classification_head", "cls_head", "head_cls", "class_head", "clf")).union(
    ("linear_head", "lin_head", "mlp_head", "last_linear", "linear")
)
DISTILLED = "head_dist"  # the second of a distilled DeiT
UNLABELLED = frozenset({"mlp", "last_layer"})  # in the projection heads of DINO and its kin


def of_a_head(name: str) -> bool:
    """Whether a tensor of a network, by its name there, is one of a head."""
    return name.split(".")[0] in WORDS | {DISTILLED}


def adopted(found: Checkpoint, state: Mapping[str, Tensor], net: Any) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The tensors with a head of classes under timm's names, where they have one under another, and what was found without it.

    Such a head is one linear layer of the width of ``net``, alone in what it lies in and the only one of that kind; it may lie
    beside the network that ``found`` was taken from (``fc`` beside ``backbone``).
    """
    if HEAD[0] in state or not isinstance(net.head, nn.Linear | nn.Identity):
        return found, dict(state)
    heads = {name: found.left[name] for name in found.left if _beside(name, found.part)}
    heads |= {name: tensor for name, tensor in state.items() if of_a_head(name)}
    linear = [names for names in _groups(heads) if _linear({name: heads[name] for name in names}, net.embed_dim)]
    if len(linear) != 1:
        return found, dict(state)
    names = dict(zip(linear[0], HEAD, strict=True))
    left = {name: tensor for name, tensor in found.left.items() if name not in names}
    kept = {name: tensor for name, tensor in state.items() if name not in names}
    return replace(found, left=left, renamed=names), kept | {own: heads[name] for name, own in names.items()}


def has_one(names: Collection[str]) -> bool | None:
    """Whether the tensors of these names have a head of classes, as far as names tell; None where several may be meant."""
    whole = [name for name in names if name.endswith(("head.weight", "classifier.weight"))]
    single = [group for group in _groups(names) if len(group) == 2 and group[0].rpartition(".")[0] == group[1].rpartition(".")[0]]
    return True if whole else None if len(single) > 1 else bool(single)


def in_words(state: Mapping[str, Tensor], names: Collection[str]) -> str:
    """What the tensors ``names`` of a head are: of classes, of training without labels (MoCo, DINO), or of several layers."""
    if all(name.count(".") == 1 for name in names):
        return f"head of {state[next(iter(names))].shape[0]} classes"
    if is_projection(state, names):
        return f"projection head, which training without labels leaves ({counted(len(names), 'tensor')}),"
    return f"head of {layers(names)}"


def says_left(note: str) -> bool:
    """Whether a note says that a head was left out."""
    return "was left out" in note and any(f": its {kind} " in note for kind in ("head of", "projection head,"))


def layers(names: Collection[str]) -> str:
    """The layers of a head by name: "several layers (head.0, head.3; 4 tensors)"."""
    found = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    what = "several layers" if len(found) > 1 else "another kind"
    return f"{what} ({', '.join(found[:4])}{', ...' if len(found) > 4 else ''}; {counted(len(names), 'tensor')})"


def is_projection(state: Mapping[str, Tensor], names: Collection[str]) -> bool:
    """Whether a head is one that training without labels leaves: DINO's by its names, MoCo's by a last layer without a bias."""
    if any(UNLABELLED.intersection(name.split(".")) for name in names):
        return True
    matrices = [name for name in names if name.endswith(".weight") and state[name].dim() == 2]
    return bool(matrices) and matrices[-1].removesuffix("weight") + "bias" not in names


def _groups(names: Collection[str]) -> list[list[str]]:
    """Names of heads by the first word that says so and what stands before it, each with its weight first."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        words = name.split(".")
        at = _place(words)
        if at is not None and not any(map(str.isdigit, words[:at])):  # those in a block are layers of it
            found[".".join(words[: at + 1])].append(name)
    return [sorted(group, key=lambda name: (not name.endswith(".weight"), name)) for group in found.values()]


def _linear(group: Mapping[str, Tensor], width: int) -> bool:
    """Whether tensors, the weight first, are one linear layer's: ``weight [classes, width]`` and ``bias [classes]``."""
    if len(group) != 2:
        return False
    (first, weight), (second, bias) = group.items()
    alike = first.removesuffix("weight") == second.removesuffix("bias") and first.endswith(".weight")
    return alike and weight.dim() == 2 and weight.shape[1] == width and bias.shape == weight.shape[:1]


def _beside(name: str, part: str) -> bool:
    """Whether a tensor outside a part is of a head that lies beside it or above: ``model.fc`` is for ``model.backbone``."""
    words, above = name.split("."), part.split(".") if part else []
    at = _place(words)
    return at is not None and words[:at] == above[:at]


def _place(words: list[str]) -> int | None:
    """Where a name begins to be a head's."""
    return next((place for place, word in enumerate(words[:-1]) if word in WORDS), None)
