"""Whether a model and a data set can serve a task, and a model an image size, told before weights are loaded or data is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from fna.data.base import Asked, Captioned, Labelled, Segmented
from fna.errors import UserError

CALLED = {
    "encode_text": "text tower",
    "classify": "classification head",
    "decoder": "language model",
    "answer": "language model that sees",
}
HELD = {Captioned: "captions", Labelled: "class for each image", Segmented: "label maps", Asked: "questions"}
ANY_MODEL = "fidelity"  # the task that every model can do on any images


def lacks(task: Any, source: Any, names: Mapping[str, str]) -> str:
    """What the model lacks of what the task needs, as a sentence without its end; "" where it can serve.

    ``task.needs``: any one of these serves ("encode_text", "classify"); ``source.abilities``: which of them there are. A task or a
    model source that says nothing of it is let through, and checked when the model is there.
    """
    needs, can = getattr(task, "needs", None), getattr(source, "abilities", None)
    if not needs or can is None or needs & can:
        return ""
    lacking = " and no ".join(CALLED[need] for need in sorted(needs))
    return f"model={names['model']} has no {lacking}, which task={names['task']} needs"


def check_examples(task: Any, source: Any, names: Mapping[str, str]) -> None:
    """Raise `UserError` where the examples that a data set gives are not what the task asks; one that says neither is let through.

    ``task.asks`` and ``source.gives``: a kind of `fna.data.base`.
    """
    asks, gives = getattr(task, "asks", None), getattr(source, "gives", None)
    if asks in HELD and gives is not None and not issubclass(gives, asks):
        raise UserError(
            f"task={names['task']}: dataset={names['dataset']} has no {HELD[asks]}; leave task out, or give task={ANY_MODEL}."
        )


def check_kv(own: Mapping[str, str], source: Any, names: Mapping[str, str]) -> None:
    """Raise `UserError` for a KV policy beside a model that keeps no cache; a source that says nothing is let through."""
    name, can = own.get("kv", "none"), getattr(source, "abilities", None)
    if name != "none" and can is not None and not {"decoder", "answer"} & can:
        raise UserError(f"kv={name}: model={names['model']} has no language model, and no cache to compress; leave kv out.")


def check_size(cfg: DictConfig, names: Mapping[str, str]) -> None:
    """Refuse sizes that the model's YAML rules out, before torch is loaded; what it leaves open, building checks."""
    patch = cfg.model.get("patch_size")
    if patch is None or cfg.image_size is None:
        return
    sides = [cfg.image_size] if isinstance(cfg.image_size, int) else list(cfg.image_size)
    if any(side % patch for side in sides):
        near = max(patch, round(sides[0] / patch) * patch)
        raise UserError(f"image_size={cfg.image_size}: {names['model']} has patches of {patch} px; give multiples, such as {near}.")


def instead(lacking: str, words: Sequence[str]) -> str:
    """That `ANY_MODEL` is taken instead of a data set's default that the model ``lacking`` something cannot do.

    Raises `UserError` where the task was typed, or an experiment has it.
    """
    groups = {word.lstrip("+~").partition("=")[0].partition(".")[0] for word in words}
    learn = "task=knn or task=probe on images with classes and some to learn from (dataset.train=SPLIT or dataset.bank=4)"
    if groups & {"task", "experiment"}:
        raise UserError(f"{lacking}; take model=clip, or ask it by what it embeds: {learn}, or task={ANY_MODEL} on any images.")
    return f"{lacking}: task={ANY_MODEL} is taken instead; what is right or wrong is told by {learn}"
