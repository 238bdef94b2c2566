"""Stage 2, what was loaded: model, data, and what of them decides every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

from fna.data.base import Dataset, listed_once
from fna.data.copies import copies_note
from fna.data.loading import Kept
from fna.data.oddities import image_notes
from fna.data.prepared import Cache
from fna.data.reading import Reading
from fna.models.base import Model
from fna.progress import say
from fna.runner import env
from fna.runner.asked import Asked
from fna.runner.identity import identity, model_config
from fna.runner.rows import RowStore
from fna.tasks.base import Run, Task, prepared
from fna.tasks.cache import digest_of
from fna.versions import settings, versions


@dataclass(frozen=True)
class Loaded:
    """``run``: how passes are made. ``decides``: what of model, data and task is part of every row's key. ``total``: how many
    samples a pass goes through; None where nobody knows."""

    model: Model
    dataset: Dataset
    task: Task
    store: RowStore
    run: Run
    decides: Mapping[str, Any]
    total: int | None


def load(asked: Asked) -> Loaded:
    """Build the model, read the data, and make what the task makes of both before any pass."""
    cfg = asked.cfg
    store = RowStore(cfg.rows_dir)
    store.check()
    device = env.choose_device(cfg.device)
    env.keep_freed_memory()
    env.fuse_stock_attention(device)
    env.seed_everything(cfg.seed)
    for note in asked.notes:
        say(note)
    say(asked.sentence())
    if hasattr(asked.model, "check_published"):
        asked.model.check_published()
    dataset = listed_once(asked.dataset.load(cfg.limit))
    dataset.notes += image_notes(example.image for example in dataset.examples if hasattr(example, "image"))
    dataset.notes += [] if _by_user(asked.dataset) else copies_note(dataset.examples)
    model = asked.model.build(image_size=_size(cfg), device=device, dtype=cfg.dtype, seed=cfg.seed)
    model.config = model_config(cfg)
    images = f", images of {' x '.join(map(str, model.image_size))} px" if model.tokens.grid is not None else ""
    say(f"weights: {model.weights_line}{images}")
    asked.task.check(model, dataset)
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    reading = Reading(cfg.workers, cfg.batch_size, threads, Cache(say) if cfg.data_cache else None)
    run = Run(cfg.batch_size, cfg.seed, cfg.strict, kept=Kept(env.spare_bytes()), reading=reading)
    decides = {
        "model": model.identity,
        "dataset": identity(cfg, "dataset"),
        "data": dataset.digest,
        "classes": digest_of({"data": [dataset.classes, dataset.class_ids], "head": [model.classes, model.class_ids]}),
        "task": [identity(cfg, "task"), versions(asked.task)],
        "image_size": list(model.image_size),
        "limit": cfg.limit,
        "device": model.device.type,
        **_own(asked, dataset),
        **prepared(asked.task, model, dataset, run),
    }
    return Loaded(model, dataset, asked.task, store, run, decides, len(dataset.examples))


def _size(cfg: DictConfig) -> int | tuple[int, int] | None:
    size = cfg.image_size
    return size if size is None or isinstance(size, int) else tuple(size)


def _own(asked: Asked, dataset: Dataset[Any]) -> dict[str, Any]:
    """Of a model or data set of the user's own its code, and what the set says of its samples: its digest may know of neither."""
    own = {what: versions(part) for what, part in (("model", asked.model), ("data", asked.dataset)) if _by_user(part)}
    samples = {"samples": digest_of({"all": settings(dataset.examples)})} if "data" in own else {}
    return {"own": own | samples} if own else {}


def _by_user(part: Any) -> bool:
    return type(part).__module__.partition(".")[0] != "fna"
