"""Stage 6, the result: what ``result.json`` says of a run and of each of its contenders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from fna.options import follows
from fna.runner.asked import Asked
from fna.runner.chosen import counted, named
from fna.runner.wanted import Wanted
from fna.values import shown

if TYPE_CHECKING:  # a job that is refused before torch is loaded writes its result too
    from fna.models.base import Model
    from fna.runner.compared import Compared, Pair
    from fna.runner.loaded import Loaded
    from fna.runner.outcomes import Scored

RESULT_SCHEMA = 1
DOMAINS = {"generated": "drawn scenes"}  # in words


def header(asked: Asked, loaded: Loaded) -> dict[str, Any]:
    """What was compared on what: what all contenders share."""
    cfg, model, dataset = asked.cfg, loaded.model, loaded.dataset
    return {
        "schema": RESULT_SCHEMA,
        "model": asked.names["model"],
        "checkpoint": model.weights.source,
        "weights_digest": model.weights.digest,
        "dataset": dataset.name,
        "split": dataset.split,
        "task": asked.names["task"],
        "image_size": list(model.image_size) if all(model.image_size) else None,
        "tokens": model.told_tokens,
        "seed": cfg.seed,
        "dtype": cfg.dtype,
        "device": model.device.type,
        "expected": cfg.expected,
    }


def options(wanted: Wanted) -> dict[str, Any]:
    """The identity columns of one contender."""
    names = {group: wanted.names.get(group, "none") for group in ("attn", "reduce", "mask", "kv")}
    found = {"sampler": _sampler(wanted.cfg, wanted.names), "landmarks": counted(wanted.cfg, wanted.names)}
    return {"label": wanted.label, **names, **found}


OWN = ("attn", "sampler", "reduce", "mask", "kv")  # groups of which each contender has its own


def leaves(cfg: DictConfig) -> dict[str, Any]:
    """What its options were, typed or not, by the words that would be typed: ``kv.budget`` -> 0.25."""
    nodes = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in OWN if OmegaConf.is_dict(cfg.get(group))}
    return dict(leaf for group, node in nodes.items() for leaf in _under(group, node))


def _under(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value if type(value) in (int, float) else shown(value)
        return
    for key in (key for key in value if key != "_target_"):
        yield from _under(f"{name}.{key}", value[key])


def entry(one: Compared, model: Model) -> dict[str, Any]:
    """One contender, whole. Of more landmarks than there are tokens all tokens ran, as a warning says."""
    contender = one.contender
    told = options(contender.wanted)
    if isinstance(told["landmarks"], int) and model.told_tokens:
        told["landmarks"] = min(told["landmarks"], model.told_tokens)
    return {
        "hash": one.scored.key,
        "recipe": one.scored.recipe,
        "status": "ok",
        **told,
        "options": leaves(contender.wanted.cfg),
        "layers": list(contender.layers),
        **contender.facts(model.depth),
        "metrics": one.comparison.metrics,
        "fidelity": one.comparison.fidelity,
        "cost": one.cost,
        "warnings": list(one.scored.warnings),
        "notes": list(contender.choice.why) if contender.choice else [],
    }


def failed_entry(wanted: Wanted, reason: str) -> dict[str, Any]:
    """A contender that refused or failed, and why."""
    return {"hash": None, "status": "failed", "error": reason, **options(wanted), "layers": shown(wanted.cfg.layers), "metrics": {}}


def pair_entry(pair: Pair) -> dict[str, Any]:
    """How two contenders differ: of each metric ``a``, ``b``, the delta of b, its interval, McNemar's p where there is one."""
    metrics = {
        name: {
            "a": found["full"],
            "b": found["variant"],
            **{key: found[key] for key in ("delta", "ci", "better", "mcnemar_p") if key in found},
        }
        for name, found in pair.comparison.metrics.items()
    }
    return {"a": pair.a, "b": pair.b, "metrics": metrics, "fidelity": pair.comparison.fidelity}


def whole(
    asked: Asked,
    loaded: Loaded,
    full: Scored,
    entries: Sequence[Mapping[str, Any]],
    pairs: Sequence[Pair],
    shown: Mapping[str, Any],
) -> dict[str, Any]:
    """``result.json``: the first contender with what all share; with more than one, ``contenders`` and ``pairs`` beside it.

    ``shown``: the environment, the words that were typed, the seconds; "warnings" and "notes" join those of the rows.
    """
    first = dict(entries[0])
    result = {
        **header(asked, loaded),
        **{key: value for key, value in first.items() if key != "label"},
        "rows": {"full": full.key, "variant": first["hash"]},
        "samples": len(full.outcome.keys),
        "skipped": full.outcome.skipped,
        **shown,
        "warnings": sorted({line for one in entries for line in one.get("warnings", ())} | {*full.warnings, *shown["warnings"]}),
        "notes": [*asked.notes, *_notes(loaded), *shown["notes"], *first.get("notes", ())],
    }
    if len(entries) > 1:
        result |= {"contenders": [dict(one) for one in entries], "pairs": [pair_entry(pair) for pair in pairs]}
    return result


def fallen(result: Mapping[str, Any]) -> list[str]:
    """The contenders that failed, a line each."""
    return [f"{one['label']}: {one['error']}" for one in result.get("contenders", ()) if one["status"] == "failed"]


def typed(folder: Path) -> list[str]:
    """The words that made a job, as Hydra noted them in its folder: what was typed, and the job's own of a sweep's."""
    noted = folder / ".hydra" / "overrides.yaml"
    return [str(word) for word in OmegaConf.load(noted)] if noted.is_file() else []


def failed(cfg: DictConfig, names: Mapping[str, str], folder: Path, error: str, seconds: float) -> dict[str, Any]:
    """``result.json`` of a run that came to nothing."""
    groups = ("model", "dataset", "task", "attn", "sampler", "reduce", "mask", "kv")
    return {
        "schema": RESULT_SCHEMA,
        "status": "failed",
        "error": error,
        **{group: names.get(group, "none") for group in groups},
        "landmarks": cfg.landmarks,
        "layers": str(cfg.layers),
        "seed": cfg.seed,
        "overrides": typed(folder),
        "seconds": seconds,
    }


def _sampler(cfg: DictConfig, names: Mapping[str, str]) -> str:
    """The sampler that the attention, or another one of its plan, really has: the root's choice, one of its own, or "none"."""
    node = cfg.attn.get("sampler")
    if node is None:
        others = any(follows("attn", name, "sampler") for name in named(cfg.layers))
        return names.get("sampler", "none") if others else "none"
    return names.get("sampler", "none") if node == cfg.sampler else str(node.get("_target_", "")).rpartition(".")[2]


def _notes(loaded: Loaded) -> list[str]:
    model, dataset = loaded.model, loaded.dataset
    told = [*model.notes, *dataset.notes]
    if model.weights.domain == "none":
        told.append("random weights, asked for: the pipeline runs, the scores mean nothing")
    elif model.weights.domain != dataset.domain:
        trained, shown = (DOMAINS.get(domain, domain) for domain in (model.weights.domain, dataset.domain))
        told.append(f"weights trained on {trained}, data of {shown}: the scores say nothing about either")
    return told
