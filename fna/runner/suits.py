"""Whether a model and a data set can serve a task, and a model an image size, told before weights are loaded or data is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fna.data.base import Asked, Captioned, Labelled, OpenQuestion, Segmented
from fna.data.longtext import Written
from fna.errors import UserError
from fna.runner.chosen import named
from fna.runner.versus import Composed
from fna.values import shown

CALLED = {
    "encode_text": "text tower",
    "classify": "classification head",
    "encode_image": "image embedding",
    "decoder": "language model",
    "answer": "language model that sees",
}
HELD = {
    Captioned: "captions",
    Labelled: "class for each image",
    Segmented: "label maps",
    Asked: "questions",
    OpenQuestion: "open questions",
    Written: "long texts",
}
HOLDS = {
    Asked: "dataset=shapes_asked or dataset=questions",
    OpenQuestion: "dataset=llava_bench",
    Written: "dataset=longtext",
}
ANY_MODEL = "fidelity"  # the task that every model with eyes and an embedding can do on any images
ABLE = {"encode_text": "model=clip", "decoder": "model=smollm2", "answer": "model=llava_shapes"}  # the nearest model that can
ASKED_OF = {"decoder": HOLDS[Written], "answer": HOLDS[Asked]}  # what the others can be asked


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
        mend = f"take {HOLDS[asks]}" if asks in HOLDS else f"leave task out, or give task={ANY_MODEL}"
        raise UserError(f"task={names['task']}: dataset={names['dataset']} has no {HELD[asks]}; {mend}.")


def check_domain(known: Mapping[str, str], domain: str, names: Mapping[str, str]) -> None:
    """Raise `UserError` where a model that picks its weights by the kind of data (``known``) has none for this kind."""
    if domain not in known:
        raise UserError(
            f"model={names['model']} has weights for {' and '.join(known)}, dataset={names['dataset']} holds {domain}; take "
            f"{ABLE['decoder'] if domain == 'texts' else 'another model'}."
        )


def check_parts(one: Composed, source: Any, names: Mapping[str, str]) -> None:
    """Raise `UserError` for what a contender has and this model cannot: a KV policy where there is no cache, a mask, a reducer or
    ``auto`` where images are not embedded by themselves; a source that says nothing is let through."""
    can, own = getattr(source, "abilities", None), one.names
    if can is None:
        return
    if own.get("kv", "none") != "none" and not {"decoder", "answer"} & can:
        raise UserError(f"kv={own['kv']}: model={names['model']} has no language model, and no cache to compress; leave kv out.")
    asked = [f"{group}={own[group]}" for group in ("mask", "reduce") if own.get(group, "none") != "none"]
    asked += [f"{knob}=auto" for knob in ("landmarks", "layers") if one.cfg[knob] == "auto"]
    asked += [f"layers={shown(one.cfg.layers)}"] if OmegaConf.is_dict(one.cfg.layers) and "auto" in one.cfg.layers else []
    if asked and "encode_image" not in can:
        raise UserError(
            f"{asked[0]}: is for models that embed images, model={names['model']} writes text; leave it out, or compress what its "
            "decoder sees (kv=fna)."
        )


def check_writer(one: Composed, source: Any, names: Mapping[str, str]) -> None:
    """Raise `UserError` for an attention that a decoder, which attends causally and keeps a cache, cannot have."""
    can, own = getattr(source, "abilities", None), one.names
    if not can or not can <= {"decoder", "answer"}:
        return
    attn = next((name for name in (own["attn"], *named(one.cfg.layers)) if name != "exact"), None)
    if attn is not None:
        raise UserError(
            f"attn={attn}: model={names['model']} attends causally and keeps a cache, which this method cannot; take attn=exact, "
            "and for FNA kv=fna (kv.prefill=landmark for the prompt too)."
        )


def check_size(cfg: DictConfig, names: Mapping[str, str]) -> None:
    """Refuse sizes that the model's YAML rules out, before torch is loaded; what it leaves open, building checks."""
    patch = cfg.model.get("patch_size")
    if patch is None or cfg.image_size is None:
        return
    sides = [cfg.image_size] if isinstance(cfg.image_size, int) else list(cfg.image_size)
    if any(side % patch for side in sides):
        near = max(patch, round(sides[0] / patch) * patch)
        raise UserError(f"image_size={cfg.image_size}: {names['model']} has patches of {patch} px; give multiples, such as {near}.")


def instead(lacking: str, task: Any, model: Any, dataset: Any, words: Sequence[str]) -> str:
    """That `ANY_MODEL` is taken instead of a data set's default that the model ``lacking`` something cannot do.

    Raises `UserError` where the task was typed, or an experiment has it, and where model or data cannot do that one either.
    """
    groups = {word.lstrip("+~").partition("=")[0].partition(".")[0] for word in words}
    learn = "task=knn or task=probe on images with classes and some to learn from (dataset.train=SPLIT or dataset.bank=4)"
    able = " or ".join(dict.fromkeys(ABLE[need] for need in sorted(task.needs) if need in ABLE))
    if "encode_image" not in model.abilities:
        for ability in sorted(model.abilities & set(ASKED_OF)):
            raise UserError(f"{lacking}; give it {ASKED_OF[ability]}, or take {able or 'another model'}.")
    if getattr(dataset, "domain", "") == "texts":
        raise UserError(f"{lacking}; take {able}.")
    if groups & {"task", "experiment"}:
        raise UserError(f"{lacking}; take {able}, or ask it by what it embeds: {learn}, or task={ANY_MODEL} on any images.")
    return f"{lacking}: task={ANY_MODEL} is taken instead; what is right or wrong is told by {learn}"
