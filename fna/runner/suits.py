"""Whether a model can serve a task, told before its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fna.errors import UserError

CALLED = {"encode_text": "text tower", "classify": "classification head"}


def check_suits(task: Any, source: Any, names: Mapping[str, str]) -> None:
    """Refuse a model that has none of what the task needs.

    ``task.needs``: any one of these serves ("encode_text", "classify"); ``source.abilities``: which of them there are. A task or a
    model source that says nothing of it is let through, and checked when the model is there.
    """
    needs, can = getattr(task, "needs", None), getattr(source, "abilities", None)
    if not needs or can is None or needs & can:
        return
    lacks = " and no ".join(CALLED[need] for need in sorted(needs))
    raise UserError(
        f"model={names['model']} has no {lacks}, which task={names['task']} needs; take model=clip, or ask it by "
        "what it embeds: task=knn or task=probe on images with classes and some to learn from (dataset=tiny_imagenet_bank, "
        "or dataset.train=SPLIT)."
    )
