"""Which tensors of a loaded checkpoint are the model's: out of containers and prefixes, whatever they are called.

Containers ({"state_dict": ...}) and prefixes ("module.") are the same thing once nested names are joined by dots. The names that
the model expects tell where its tensors lie: under the prefix that leaves most of them. Pure functions on what was loaded.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fna.errors import UserError
from fna.values import counted

# What wrappers put into the middle of names as well: compiling a block, sharding or checkpointing it.
INNER = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"})
CONTAINERS = frozenset(
    ("state_dict", "model", "model_state_dict", "model_state", "state", "net", "network", "weights", "params", "module")
).union(("backbone", "encoder", "teacher", "student"))
AVERAGED = frozenset({"ema", "avg", "averaged", "swa", "polyak"})
SECOND = frozenset({"student", "encoder_k"})  # of a pair, what papers do not evaluate: DINO's, MoCo's
# Of training, not of the model, in whichever part it lies: no word is lost on it.
TRAINING = (
    frozenset(("optimizer", "optimizer_state_dict", "optimizer_states", "optimizers", "optim", "opt", "last_optimizer_state"))
    .union(("lr_scheduler", "lr_schedulers", "scheduler", "schedulers", "scaler", "amp_scaler", "loops", "callbacks"))
    .union(("rng", "rng_state", "epoch", "step", "global_step", "iteration", "iter", "best_acc", "best_acc1", "best_acc5"))
    # how far averaging is: torch's AveragedModel, MMEngine, torch_ema and LitEma, ema-pytorch
    .union(("n_averaged", "steps", "num_updates", "decay", "initted"))
)
LOSSES = frozenset({"criterion", "loss", "loss_fn", "loss_function"})  # with weights of their own, which are no network's
LORA = (".lora_", ".base_layer.")  # in names that PEFT and loralib give
# Above, chunk, and from the block's number on.
CHUNKED = re.compile(r"(?P<above>(?:.*\.)?)blocks\.(?P<chunk>\d+)\.(?P<rest>(?P<number>\d+)\..+)")
SHARE = 0.9  # of the best part's tensors: another part that has as many is as good


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one part of a checkpoint. ``part``: the containers and prefixes that they lay under, "" for none.

    ``others``: further parts that would fit as well (averaged weights, say). ``left``: tensors of no such part, by name.
    ``objects``: what else lies there, in words. ``taken``: what was taken under another name, in words.
    """

    state: dict[str, Tensor]
    part: str = ""
    others: tuple[str, ...] = ()
    left: Mapping[str, Tensor] = field(default_factory=dict)
    objects: tuple[str, ...] = ()
    taken: str = ""

    @property
    def beside(self) -> tuple[str, ...]:
        """What lies beside the chosen and the fitting parts, in words."""
        return (*_grouped(self.left), *self.objects)

    def note(self, path: object) -> str:
        """What was taken and what was left, empty where nothing was left that matters and no name was another."""
        taken = f"{path}: {self.taken}" if self.taken else ""
        return "; ".join(said for said in (taken, self._left_note(path)) if said)

    def _left_note(self, path: object) -> str:
        if not self.others and not self.beside:
            return ""
        rest = [
            f"{name} ({_said(name)}tensors of the same names and shapes; model.part={name} takes them)"
            for name in self.others
            if name
        ]
        rest += ["those at the top (tensors of the same names and shapes, taken without model.part)"] * ("" in self.others)
        where = f" of {self.part}" if self.part else ""
        return f"{path}: took the {counted(len(self.state), 'tensor')}{where}; besides it holds {', '.join([*rest, *self.beside])}"


def unpack(loaded: Any, expected: Collection[str], path: object, part: str | None = None) -> Checkpoint:
    """The tensors in ``loaded`` that best match the names ``expected``, free of containers and prefixes.

    ``part`` chooses among several that match: a container or prefix by name ("ema", "teacher.backbone"). Raises `UserError` for
    what is no mapping of tensors, for a part that is not there, and for tensors that hold no plain numbers.
    """
    if isinstance(loaded, nn.Module):
        raise UserError(f"{path}: holds a whole model; save its tensors alone: torch.save(model.state_dict(), FILE).")
    flat = dict(_flat(loaded)) if isinstance(loaded, Mapping) else {}
    if _optimizer_alone(loaded, flat):
        raise UserError(f"{path}: holds the state of an optimizer and no weights; give the file of the model's state_dict.")
    if not flat:
        raise UserError(f"{path}: holds {_instead(loaded)}, not tensors by name; {_mend(loaded)}.")
    if odd := next((name for name in flat if not name.isprintable()), None):
        raise UserError(f"{path}: a tensor is named {odd[:80]!r}; the file is damaged, or no checkpoint.")
    if any(mark in name for name in flat for mark in LORA):  # those of what they change may be whole beside them
        raise UserError(
            f"{path}: it holds LoRA adapters, which fna does not put onto the weights that they change; merge them into these "
            "(merge_and_unload) and save the whole model."
        )
    names = _without_inner(flat)
    places = _places(names, set(expected)) or {_plain_prefix(names): set(names)}
    chosen, others = _choose(places, names, part, path)
    own, *rest = (
        {name.removeprefix(at): flat[raw] for name, raw in names.items() if name.startswith(at)} for at in _starts(chosen, *others)
    )
    state = _own_only(own, set(expected), chosen, others)
    _check_tensors(state, path)
    alike = tuple(other for other, tensors in zip(others, rest, strict=True) if _takes_its_place(tensors, state, expected))
    left = _left(names, state, expected, chosen, alike)
    return Checkpoint(state, chosen, alike, {name: flat[raw] for name, raw in left.items()}, _objects(loaded))


def _optimizer_alone(loaded: Any, flat: Collection[str]) -> bool:
    """Whether this is an optimizer's own state_dict(), or holds nothing but one and what else training keeps."""
    if not isinstance(loaded, Mapping) or set(loaded) == {"state", "param_groups"}:
        return isinstance(loaded, Mapping)
    return any("optim" in str(key) for key in loaded) and all(name.split(".")[0] in TRAINING for name in flat)


def _arrays(loaded: Any) -> bool:
    values = list(loaded.values()) if isinstance(loaded, Mapping) else []
    inner = [item for value in values for item in (value.values() if isinstance(value, Mapping) else [value])]
    return any(isinstance(item, np.ndarray) for item in inner)


def _instead(loaded: Any) -> str:
    return "numpy arrays" if _arrays(loaded) else _what(loaded)


def _mend(loaded: Any) -> str:
    if _arrays(loaded):
        return "make them tensors: torch.save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, FILE)"
    return "save the model's state_dict"


def matched(loaded: Any, expected: Collection[str]) -> int:
    """How many of the names ``expected`` the best part of ``loaded`` holds."""
    names = _without_inner(dict(_flat(loaded))) if isinstance(loaded, Mapping) else {}
    return max(map(len, _places(names, set(expected)).values()), default=0)


def _starts(*prefixes: str) -> list[str]:
    """What names below each prefix begin with."""
    return [prefix + "." if prefix else "" for prefix in prefixes]


def _own_only(state: dict[str, Tensor], expected: set[str], chosen: str, others: tuple[str, ...]) -> dict[str, Tensor]:
    """Without what training keeps beside the model's tensors, and without other parts that lie among them."""
    (start,) = _starts(chosen)
    inside = {other.removeprefix(start).split(".")[0] for other in others if other.startswith(start)}
    apart = inside | TRAINING | (LOSSES if expected else frozenset())
    return {name: tensor for name, tensor in state.items() if name in expected or name.split(".")[0] not in apart}


def _left(
    names: Mapping[str, str], state: Collection[str], expected: Collection[str], chosen: str, alike: tuple[str, ...]
) -> dict[str, str]:
    """What was neither taken nor is of a part that would do as well, to the name that the file gives it; without its prefix where
    it lies in the chosen one."""
    (own,), known = _starts(chosen), _starts(*alike)
    apart = [name for name in names if not any(name.startswith(at) and (at or name in expected) for at in known)]
    rest = [name for name in apart if not name.startswith(own) or name.removeprefix(own) not in state]
    return {name.removeprefix(own): names[name] for name in rest}


def _takes_its_place(other: Mapping[str, Tensor], state: Mapping[str, Tensor], expected: Collection[str]) -> bool:
    """Whether another part has all of the model's tensors that the chosen one has, in the same shapes."""
    needed = {*expected} & state.keys()
    return all(name in other and other[name].shape == state[name].shape for name in needed)


def _flat(node: Mapping[Any, Any], path: str = "", above: tuple[Any, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor at any depth. ``above``: the mappings that led here, to which one inside may lead back."""
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, nn.Module):
            continue
        elif isinstance(value, Mapping) and all(value is not one for one in (*above, node)):
            yield from _flat(value, name, (*above, node))


def _without_inner(flat: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without the wrappers that stand anywhere in them, to the names as they are; as they are where two would become one."""
    bare = {name: ".".join(word for word in name.split(".") if word not in INNER) for name in flat}
    count: dict[str, int] = defaultdict(int)
    for name in bare.values():
        count[name] += 1
    return _without_chunks({short if short and count[short] == 1 else name: name for name, short in bare.items()})


def _without_chunks(names: Mapping[str, str]) -> dict[str, str]:
    """Names without the chunk that DINOv2's own training puts its blocks in: blocks.CHUNK.NUMBER.*, numbered through all chunks."""
    chunks: dict[tuple[str, str], set[str]] = defaultdict(set)
    found = {name: match for name in names if (match := CHUNKED.fullmatch(name))}
    for match in found.values():
        chunks[match["above"], match["number"]].add(match["chunk"])
    mixed = {above for (above, _), inside in chunks.items() if len(inside) > 1}
    whole = {name: match for name, match in found.items() if match["above"] not in mixed}
    bare = {f"{whole[name]['above']}blocks.{whole[name]['rest']}" if name in whole else name: raw for name, raw in names.items()}
    return bare if len(bare) == len(names) else dict(names)


def _places(names: Mapping[str, str], expected: set[str]) -> dict[str, set[str]]:
    """Prefixes to the names of ``names`` below them that become expected ones once the prefix is off."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        words = name.split(".")
        for cut in range(len(words)):
            if ".".join(words[cut:]) in expected:
                found[".".join(words[:cut])].add(name)
    return found


def _plain_prefix(names: Collection[str]) -> str:
    """The usual containers and wrappers that tensors of unknown names lie under."""
    prefix: list[str] = []
    while True:
        inside = [name.split(".")[len(prefix) :] for name in names if name.split(".")[: len(prefix)] == prefix]
        first = {words[0] for words in inside if words}
        found = sorted(first & CONTAINERS, key=lambda word: _rank(word))
        if not found or any(word not in CONTAINERS | TRAINING and not averaged(word) for word in first):
            return ".".join(prefix)
        prefix.append(found[0])


def _choose(places: dict[str, set[str]], names: Mapping[str, str], part: str | None, path: object) -> tuple[str, tuple[str, ...]]:
    """The prefix to take and the others that would do as well. ``names``: what the file calls each, with wrappers."""
    best = max(map(len, places.values()), default=0)
    # names of one part may match under two prefixes (an image tower's inside the whole model's): the fuller one is meant
    ordered = sorted(places, key=lambda prefix: (-len(places[prefix]), _rank(prefix)))
    fitting: list[str] = []
    for prefix in ordered:
        full = len(places[prefix]) >= SHARE * best
        if full and not any(places[prefix] & places[other] for other in fitting):
            fitting.append(prefix)
    fitting.sort(key=_rank)
    if part is not None:
        wanted = [prefix for prefix in fitting if part in (prefix, *prefix.split(".")) or f"{part}." in f"{prefix}."]
        if INNER.intersection(part.split(".")):  # a container or wrapper that names here are without
            wanted = [prefix for prefix in fitting if f".{part}." in f".{names[min(places[prefix])]}"]
        if not wanted:
            known = ", ".join(prefix or "(the top)" for prefix in fitting) or "none that fits the model"
            raise UserError(f"model.part={part}: {path} holds no such part; it has {known}.")
        return wanted[0], tuple(prefix for prefix in fitting if prefix != wanted[0])
    return (fitting[0], tuple(fitting[1:])) if fitting else ("", ())


def _rank(prefix: str) -> tuple[bool, bool, int, str]:
    """Trained weights before averaged ones, of a pair what is evaluated (DINO's teacher, MoCo's queries), shorter ones first."""
    words = prefix.split(".")
    return averaged(prefix), bool(SECOND.intersection(words)), len(words), prefix


def averaged(prefix: str) -> bool:
    """Whether a name is one of averaged weights."""
    return any(word.lower() in AVERAGED for part in prefix.split(".") for word in part.split("_"))


def _said(prefix: str) -> str:
    return "averaged weights, " if averaged(prefix) else ""


def _check_tensors(state: Mapping[str, Tensor], path: object) -> None:
    """Raise `UserError` for tensors that are no plain array of numbers, are empty, or do not hold finite ones."""
    for name, tensor in state.items():
        kind = _odd(tensor)
        if kind:
            raise UserError(f"{path}: {name} is {kind}; save the weights as plain full tensors of 16, 32 or 64 bits.")
    empty = [name for name, tensor in state.items() if tensor.is_floating_point() and tensor.shape == (0,)]
    if empty:
        raise UserError(
            f"{path}: {len(empty)} of its {counted(len(state), 'tensor')} are empty (first: {empty[0]}), as DeepSpeed's ZeRO-3 "
            "leaves them: the weights lie in the files zero_pp_rank_* of the training's checkpoint; zero_to_fp32.py, which it puts "
            "there, gathers them: give the file that it writes."
        )
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if bad:
        raise UserError(f"{path}: {len(bad)} of its tensors hold NaN or infinity (first: {bad[0]}); the training diverged.")


def _odd(tensor: Tensor) -> str:
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return f"a {type(tensor).__name__}"
    if tensor.is_quantized or (tensor.dtype.is_floating_point and tensor.dtype.itemsize < 2):
        return f"quantised ({tensor.dtype})"
    if tensor.layout is not torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "without numbers (meta)"
    return f"complex ({tensor.dtype})" if tensor.is_complex() else ""


def _grouped(left: Collection[str]) -> list[str]:
    """Tensors that were left, in groups by their first word."""
    groups: dict[str, int] = defaultdict(int)
    for name in left:
        words = name.split(".")
        if words[0] not in TRAINING:
            groups[words[0] if len(words) == 1 or words[0] not in CONTAINERS else ".".join(words[:2])] += 1
    return [f"{group} ({counted(count, 'tensor')}, not used)" for group, count in groups.items()]


def _objects(loaded: Mapping[Any, Any]) -> tuple[str, ...]:
    """Python objects beside the tensors, in words."""
    plain = (Tensor, Mapping, str, int, float, list, tuple, set, type(None), torch.Size, torch.dtype, torch.device)
    objects = [f"{key} ({_what(value)})" for key, value in loaded.items() if not isinstance(value, plain)]
    return (f"{', '.join(objects)}, which plain tensors alone would do without",) if objects else ()


def _what(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ in ("builtins", "torch") else f"{kind.__module__}.{kind.__name__}"
    return f"an empty {name}" if isinstance(value, Mapping) and not value else name
