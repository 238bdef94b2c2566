"""What of a run does not go together: refused where it could not be done, noted where a typed knob does nothing beside the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fna.errors import UserError
from fna.runner.versus import BESIDE, Composed
from fna.runner.wanted import AUTO
from fna.values import shown

PICTURES = ("batch_size", "gallery", "strict", "workers", "data_cache")  # knobs of reading pictures, and of showing them
LEARNT_FROM = ("train", "bank", "train_count")  # of data sets: what is learnt from
WRITE = frozenset({"decoder", "answer"})  # abilities of models whose cache is compressed, not their attention swapped


def check_options(one: Composed) -> None:
    """Refuse what this version cannot do, and what of a contender's options does not go together."""
    names, cfg = one.names, one.cfg
    for knob in ("landmarks", "layers"):
        if cfg[knob] == AUTO and "landmarks" not in cfg.attn:
            raise UserError(f"{knob}=auto: attn={names['attn']} has no landmarks to count; leave it out.")
    if AUTO in (cfg.landmarks, cfg.layers) and names.get("mask", "none") != "none":
        raise UserError("landmarks=auto and layers=auto are measured without a mask: give a count and blocks beside mask=...")
    beside = [group for group in ("mask", "reduce") if names.get(group, "none") != "none"]
    if beside and _divided(cfg):
        raise UserError(
            f"layers={shown(cfg.layers)}: methods are measured without {beside[0]}={names[beside[0]]}; leave that out, or type the "
            "plan."
        )


def idle(
    composed: Sequence[Composed], names: Mapping[str, str], model: Any, dataset: Any, task: Any, words: Sequence[str]
) -> tuple[str, ...]:
    """A line for each of the typed ``words``, and of a contender's own, that changes nothing in this run, with why."""
    why = _idle([one.cfg for one in composed], names, model, dataset, task)
    found = [(word, why[key]) for word in words if (key := word.lstrip("+").partition("=")[0]) in why]
    for one in composed[1:]:
        own = _idle([one.cfg], names, model, dataset, task)
        found += [(f"versus: {word}", own[key]) for word in one.label.split() if (key := word.partition("=")[0]) in own]
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    bare = composed[0].names["attn"] == "exact" and all(composed[0].names.get(group, "none") == "none" for group in BESIDE)
    itself = bare and len(composed) == 1 and not typed & {"attn", "experiment"}
    instead = "kv=fna" if (getattr(model, "abilities", None) or set()) & WRITE else "attn=fna"
    same = f"attn=exact, which dataset={names['dataset']} brings, is full attention itself: give {instead}, for one"
    return (*[same] * itself, *(f"{word}: does nothing here, for {reason}" for word, reason in found))


def _idle(cfgs: Sequence[DictConfig], names: Mapping[str, str], model: Any, dataset: Any, task: Any) -> dict[str, str]:
    """The keys that change nothing beside the rest of what these contenders have, and why; nothing where a part does not tell."""
    cfg, can = cfgs[0], getattr(model, "abilities", None) or frozenset()
    found: dict[str, str] = {}
    if not any(one.landmarks == AUTO or _divided(one) for one in cfgs):
        found["tolerance"] = "it bounds what landmarks=auto and layers={auto: [...]} choose"
    if not cfg.timing.enabled:
        found["timing.rounds"] = "timing.enabled=false leaves the timing out"
        if not any(AUTO in (one.landmarks, one.layers) or _divided(one) for one in cfgs):
            found["timing.batch_size"] = found["timing.rounds"]
    if can and can <= WRITE:
        found["layers"] = f"model={names['model']} keeps its own attention; kv= says what is done to its cache"
    if "answer" in can:
        found |= dict.fromkeys(("workers", "data_cache"), "the model's own processor reads the pictures")
    if getattr(dataset, "domain", "") == "texts":
        found |= dict.fromkeys(PICTURES, f"dataset={names['dataset']} has no pictures, and is read a text at a time")
    if not (_learns(task) or any(map(_divided, cfgs))):
        why = f"task={names['task']} learns from no images (task=knn and task=probe do)"
        found |= {f"dataset.{key}": why for key in LEARNT_FROM if hasattr(dataset, key)}
    if "classify" in can and getattr(task, "head", None) in ("auto", "head"):
        found["task.templates"] = f"the head of model={names['model']} answers (task.head=zeroshot asks by texts)"
    if "judge" in cfg and cfg.judge.base_url is None:
        found |= {f"judge.{key}": "judge.base_url is null, and nobody is asked" for key in cfg.judge if key != "base_url"}
    return found


def _divided(cfg: DictConfig) -> bool:
    """Whether the blocks are to be divided among methods by measurement."""
    return OmegaConf.is_dict(cfg.layers) and AUTO in cfg.layers


def _learns(task: Any) -> bool:
    """Whether a task, or the head that it has, learns from images of a data set."""
    head = getattr(task, "head", task)
    return hasattr(task if isinstance(head, str) else head, "check_source") and getattr(head, "checkpoint", None) is None
