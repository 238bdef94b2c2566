"""One run: make the rows that are missing, compare, measure the cost in turns, write, show."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fna.data.base import Dataset
from fna.data.loading import batches
from fna.data.segmentation import SegmentedDataset
from fna.errors import UserError
from fna.metrics.compare import compare
from fna.models.base import Model
from fna.models.weights import first_line
from fna.ops.exact import Exact
from fna.report import table
from fna.report.page import write_page
from fna.runner import auto, classes, cost, env, gallery, masks, segments, study
from fna.runner.files import write_atomic
from fna.runner.job import RESULT_SCHEMA, typed
from fna.runner.plan import Plan, identity, model_config
from fna.runner.rows import Row, RowStore, row_key, versions
from fna.surgery.plan import parse_layers
from fna.surgery.swap import swap_tower
from fna.tasks.base import FULL, Outcome, Prepared, Run
from fna.tasks.cache import digest_of
from fna.tasks.segmentation import Segmentation
from fna.tasks.tokens import Tokens

console = Console(stderr=True)


def compare_variants(plan: Plan, folder: Path, started: float) -> dict[str, Any]:
    """Full attention beside the variant on the same samples, from stored rows where there are any."""
    cfg = plan.cfg
    store = RowStore(cfg.rows_dir)
    store.check()
    device = env.choose_device(cfg.device)
    env.keep_freed_memory()
    env.seed_everything(cfg.seed)
    console.print(plan.sentence(), highlight=False)
    dataset = plan.dataset.load(cfg.limit)
    model = plan.model.build(image_size=_size(cfg), device=device, dtype=cfg.dtype, seed=cfg.seed)
    model.config = model_config(cfg)
    console.print(f"weights: {model.weights_line}", highlight=False)
    plan.task.check(model, dataset)
    plan = masks.ready(auto.settle(plan, model, dataset), model, dataset)
    layers = plan.choice.blocks(model.depth) if plan.choice else parse_layers(cfg.layers, model.depth)
    result = _header(plan, model, dataset, layers, device) | masks.facts(plan, model) | auto.facts(plan)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        full, variant = _rows(plan, store, model, dataset, layers)
        assert full.outcome is not None
        assert variant.outcome is not None
        comparison = compare(full.outcome, variant.outcome, plan.task.metrics, draws=cfg.bootstrap, seed=cfg.seed)
        result |= {"metrics": comparison.metrics, "fidelity": comparison.fidelity}
        result["cost"] = _cost(plan, model, dataset, layers) if cfg.timing.enabled else {}
        if getattr(plan.mask, "unmasked", False):
            result["unmasked"] = _unmasked(plan, store, model, dataset, layers)
        further = _further_pictures(folder, plan, model, dataset, (full, variant), layers)
        gallery.write(folder, plan, model, dataset, (full.outcome, variant.outcome), layers, further)
    classes.write(folder, dataset, full.outcome, variant.outcome)
    result |= {
        "status": "ok",
        "hash": variant.key,
        "rows": {"full": full.key, "variant": variant.key},
        "samples": len(full.outcome.keys),
        "skipped": full.outcome.skipped,
        "warnings": sorted({str(warning.message) for warning in caught if "fna" in Path(warning.filename).parts}),
        "notes": [*_notes(model, dataset), *(plan.choice.why if plan.choice else [])],
        "environment": env.environment(device),
        "overrides": typed(folder),
        "seconds": round(time.perf_counter() - started, 2),
    }
    _finish(result, folder)
    return result


def _size(cfg: DictConfig) -> int | tuple[int, int] | None:
    size = cfg.image_size
    return size if size is None or isinstance(size, int) else tuple(size)


def _header(plan: Plan, model: Model, dataset: Dataset, layers: tuple[int, ...], device: str) -> dict[str, Any]:
    """What was compared: the identity columns of ``result.json``."""
    cfg, names = plan.cfg, plan.names
    return {
        "schema": RESULT_SCHEMA,
        "hash": None,
        "status": "running",
        "model": names["model"],
        "checkpoint": model.weights.source,
        "weights_digest": model.weights.digest,
        "dataset": dataset.name,
        "split": dataset.split,
        "task": names["task"],
        **{group: names.get(group, "none") for group in ("attn", "reduce", "mask", "kv")},
        "sampler": _sampler(cfg, names),
        "landmarks": cfg.landmarks,
        "layers": list(layers),
        "image_size": list(model.image_size),
        "tokens": model.token_count,
        "seed": cfg.seed,
        "dtype": cfg.dtype,
        "device": device,
        "expected": cfg.expected,
    }


def _sampler(cfg: DictConfig, names: Mapping[str, str]) -> str:
    """The sampler that the attention really has: the root's choice, one of its own, or "none"."""
    node = cfg.attn.get("sampler")
    if node is None:
        return "none"
    return names.get("sampler", "none") if node == cfg.sampler else str(node.get("_target_", "")).rpartition(".")[2]


def _rows(plan: Plan, store: RowStore, model: Model, dataset: Dataset, layers: tuple[int, ...]) -> tuple[Row, Row]:
    common = {
        "model": model.identity,
        "dataset": identity(plan.cfg, "dataset"),
        "data": dataset.digest,
        "classes": digest_of({"data": [dataset.classes, dataset.class_ids], "head": [model.classes, model.class_ids]}),
        "task": [identity(plan.cfg, "task"), versions(plan.task)],
        "image_size": list(model.image_size),
        "limit": plan.cfg.limit,
        "device": model.device.type,
    }
    variant = {
        **{group: identity(plan.cfg, group) for group in ("attn", "reduce", "kv")},
        "mask": masks.decides(plan),
        "attn_versions": versions(plan.op),
        "layers": list(layers) if plan.choice is None else sorted(plan.choice.landmarks.items()),
        "seed": plan.cfg.seed,
    }
    if isinstance(plan.task, Prepared):
        common["prepared"] = plan.task.prepare(model, dataset, _settings(plan))
    swap = masks.swapper(plan, model, layers)
    full = _row(plan, store, model, dataset, common | {"attn": "full"}, FULL, nullcontext)
    return full, _row(plan, store, model, dataset, common | variant, plan.names["attn"], swap)


def _unmasked(plan: Plan, store: RowStore, model: Model, dataset: Dataset, layers: tuple[int, ...]) -> dict[str, Any]:
    """The third column: the variant without its mask, against full."""
    full, bare = _rows(replace(plan, mask=None), store, model, dataset, layers)
    assert full.outcome is not None
    assert bare.outcome is not None
    beside = compare(full.outcome, bare.outcome, plan.task.metrics, draws=plan.cfg.bootstrap, seed=plan.cfg.seed)
    return {"hash": bare.key, "metrics": beside.metrics, "fidelity": beside.fidelity}


def _row(
    plan: Plan,
    store: RowStore,
    model: Model,
    dataset: Dataset,
    decides: Mapping[str, Any],
    label: str,
    context: Callable[[], AbstractContextManager[Any]],
) -> Row:
    """A stored row, or the row made now.

    A failure of the variant itself (it refuses, or its outputs are not finite) is stored too, and raised again until
    ``retry_failed=true``. What lies outside it, files, folders and memory, can be mended and is not.
    """
    key = row_key(decides)
    stored = store.get(key)
    if stored is not None and stored.failed and not plan.cfg.retry_failed:
        raise UserError(f"{label}: failed before ({stored.record['error']}); retry_failed=true tries it again.")
    if stored is not None and stored.outcome is not None:
        if _stands(stored.outcome, plan, model, dataset):
            console.print(f"{label}: row {key} is there, not computed again", highlight=False)
            return stored
        console.print(f"{label}: row {key} skipped {len(stored.outcome.skipped)} images, computed again", highlight=False)
    began = time.perf_counter()
    try:
        with context(), _bar(label, len(dataset.examples)) as progress:
            outcome = plan.task.evaluate(model, dataset, _settings(plan, progress, FULL if label == FULL else key))
        _check_finite(outcome, label)
    except ValueError as error:
        store.put_failed(key, " ".join(str(error).split()), {"decides": decides})
        raise UserError(str(error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(f"{label}: out of memory ({first_line(error)}); give a smaller batch_size.") from error
    return store.put(key, outcome, {"decides": decides, "variant": label, "seconds": round(time.perf_counter() - began, 2)})


def _stands(stored: Outcome, plan: Plan, model: Model, dataset: Dataset) -> bool:
    """Whether a stored outcome can be used: with ``strict`` only if nothing was skipped, else if that still cannot be read."""
    if not stored.skipped or plan.cfg.strict:
        return not stored.skipped
    seen = set(stored.keys)
    lacking = [example for example in dataset.examples if example.key not in seen]
    with suppress(UserError):  # raised where none of them can be read
        return not any(batch.indices for batch in batches(lacking, model.transform, batch_size=1, skipped=[]))
    return True


def _check_finite(outcome: Outcome, label: str) -> None:
    bad = ~torch.isfinite(torch.from_numpy(outcome.outputs)).all(1)
    if bad.any():
        first = outcome.keys[int(bad.nonzero()[0, 0])]
        raise ValueError(f"{label}: {int(bad.sum())} of {len(bad)} outputs are not finite (first: {first}); try dtype=float32.")


def _settings(plan: Plan, progress: Callable[[int], None] = lambda n: None, variant: str = FULL) -> Run:
    cfg = plan.cfg
    return Run(cfg.batch_size, cfg.seed, cfg.strict, cfg.workers, progress, variant)


@contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(label, total=total, rate="")
        began = time.perf_counter()

        def advance(n: int) -> None:
            progress.advance(bar, n)
            done = progress.tasks[0].completed
            progress.update(bar, rate=f"{done / (time.perf_counter() - began):.0f} images/s")

        yield advance


def _cost(plan: Plan, model: Model, dataset: Dataset, layers: tuple[int, ...]) -> dict[str, Any]:
    images = gallery.batch(model, dataset, plan.cfg.timing.batch_size)
    exact = dict.fromkeys(layers, Exact())
    console.print(f"cost: full, exact and {plan.names['attn']} in turns, {plan.cfg.timing.rounds} rounds", highlight=False)
    return cost.measure(
        plan.task.forward(model),
        {
            "full": nullcontext,
            "exact": lambda: swap_tower(model.tower, exact),
            "variant": masks.swapper(plan, model, layers),
        },
        lambda clock: masks.swap_variant(plan, model, layers, clock=clock),
        images,
        rounds=plan.cfg.timing.rounds,
    )


def _further_pictures(
    folder: Path, plan: Plan, model: Model, dataset: Dataset, rows: tuple[Row, Row], layers: tuple[int, ...]
) -> dict[str, list[dict[str, Any]]]:
    """Sections of ``gallery.json`` that only some tasks have."""
    if isinstance(plan.task, Tokens):
        return study.draw(folder, plan, plan.task, model, dataset)
    outcomes = tuple(row.outcome for row in rows if row.outcome is not None)
    if not (isinstance(plan.task, Segmentation) and isinstance(dataset, SegmentedDataset) and len(outcomes) == 2):
        return {}
    full, variant = _settings(plan), _settings(plan, variant=rows[1].key)
    contexts = ((full, nullcontext), (variant, masks.swapper(plan, model, layers)))
    return {"segments": segments.draw(folder, plan.task, model, dataset, outcomes, contexts, plan.cfg.gallery)}


def _notes(model: Model, dataset: Dataset) -> list[str]:
    notes = [*model.notes, *dataset.notes]
    if model.weights.domain == "none":
        notes.append("random weights, asked for: the pipeline runs, the scores mean nothing")
    elif model.weights.domain != dataset.domain:
        notes.append(f"weights trained on {model.weights.domain}, data of {dataset.domain}: the scores say nothing about either")
    return notes


def _finish(result: dict[str, Any], folder: Path) -> None:
    write_atomic(folder / "result.json", json.dumps(result, indent=1).encode())
    table.show(result)
    table.write_markdown(folder)
    page = write_page(folder)
    console.print(f"page: {page}", highlight=False, soft_wrap=True)
