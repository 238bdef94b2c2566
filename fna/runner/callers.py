"""A contender that a caller of `fna.compare` names, as one of the command line: parts, blocks, a label."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from fna.errors import UserError
from fna.ops.landmarks import FarthestPoint
from fna.options import follows
from fna.runner.wanted import Wanted
from fna.surgery.blocks import Tower
from fna.surgery.plan import parse_plan
from fna.versions import settings as settings_of

Build = Callable[..., tuple[Any, Any, Any]]  # what was asked for -> op or a plan's ops, mask, reducer (`fna.api.compare`)


def library_contender(
    attn: Any, given: dict[str, Any], shared: Mapping[str, Any], build: Build, rounds: int, seed: int, tower: Tower
) -> Wanted:
    """A contender of the library as one of the command line: ``given`` names it, ``shared`` holds where it says nothing."""
    layers = given.pop("layers")
    planned = isinstance(attn, Mapping)
    counts = planned or (isinstance(attn, str) and follows("attn", attn, "landmarks"))
    op, mask, reduce = build(attn, layers, seed=seed, **{**(shared if counts else {}), **given})
    blocks: Any
    blocks, methods = _planned(attn, op, tower) if planned else (list(tower.layers(layers)), {})
    op = next((one for one in methods.values() if _count(one)), next(iter(methods.values()))) if planned else op
    name = next(name for name, one in methods.items() if one is op) if planned else _called(attn)
    told = {key: _told(value) for key, value in given.items() if value is not None}
    own = {group: str(told.get(group, "none")) for group in ("mask", "reduce")} | {"sampler": _sampler(op, told)}
    settings: dict[str, Any] = {
        "layers": blocks,
        "landmarks": told.get("landmarks", shared.get("landmarks", 64)),
        "tolerance": 0.1,
        "rows_dir": "rows",
        "attn": _count(op) | ({"sampler": own["sampler"]} if own["sampler"] != "none" else {}),
        "sampler": own["sampler"],
    }
    cfg = OmegaConf.create(settings | {"timing": {"batch_size": 8, "rounds": rounds}})
    first = ", ".join(f"{spec}: {one}" for spec, one in blocks.items()) if planned else name
    label = " ".join([first, *(f"{key}={value}" for key, value in told.items())])
    return Wanted(label, {"attn": name, "kv": "none", **own}, cfg, op, mask, reduce, methods=methods)


def told_apart(wanted: Sequence[Wanted]) -> list[Wanted]:
    """The contenders with a label each: those of one name are numbered where they differ. Raises `UserError` for one twice."""
    seen: dict[str, list[str]] = {}
    named = []
    for one in wanted:
        same = seen.setdefault(one.label, [])
        own = repr(settings_of([one.op, one.mask, one.reduce, one.methods, str(one.cfg.layers)]))
        if own in same:
            raise UserError(f"versus: {one.label} stands there twice; name each contender once.")
        same.append(own)
        named.append(one if len(same) == 1 else _numbered(one, len(same)))
    return named


def _numbered(one: Wanted, number: int) -> Wanted:
    """Another contender of the same words, which are its name in tables too."""
    return replace(one, label=f"{one.label} ({number})", names={**one.names, "attn": f"{one.names['attn']} ({number})"})


def _planned(plan: Mapping[Any, Any], ops: Mapping[Any, Any], tower: Tower) -> tuple[dict[str, str], dict[str, Any]]:
    """The name of the method of each range, and the methods by name; two of one name are told apart by their blocks."""
    parse_plan(ops, len(tower.blocks), "attn", tower.unasked)
    names: dict[str, str] = {}
    methods: dict[str, Any] = {}
    for spec, op in ops.items():
        name = _called(plan[spec])
        name = name if methods.get(name, op) == op else f"{name} of {spec}"
        names[str(spec)], methods[name] = name, op
    return names, methods


def _called(attn: Any) -> str:
    """An attention as it was named; an object by its class and what it was given beside the defaults."""
    if isinstance(attn, str):
        return attn
    if not is_dataclass(attn):
        return attn.__name__ if inspect.isroutine(attn) else type(attn).__name__
    values = {one.name: getattr(attn, one.name) for one in fields(attn) if one.repr and one.default != getattr(attn, one.name)}
    given = ",".join(
        f"{name}:{value}" for name, value in values.items() if isinstance(value, str | int | float)
    )  # one word of a label
    return f"{type(attn).__name__}({given})" if given else type(attn).__name__


def _count(op: Any) -> dict[str, Any]:
    """The op's own number of landmarks, where it has one."""
    count = getattr(op, "landmarks", None)
    return {"landmarks": count} if isinstance(count, int | float) else {}


def _sampler(op: Any, told: Mapping[str, Any]) -> str:
    """What draws the op's landmarks: as it was named, else the default by its name, else by its class."""
    drawn = getattr(op, "sampler", None)
    if drawn is None:
        return "none"
    return str(told.get("sampler", "fps" if isinstance(drawn, FarthestPoint) else type(drawn).__name__))


def _told(value: Any) -> str | int | float:
    """An option in a label: itself, or the class of an object."""
    return value if isinstance(value, str | int | float) else type(value).__name__


def versus_entry(one: Any, attn: Any, layers: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """One entry of ``versus``: an attention, or a dict of ``attn`` and its options.

    A dict without ``attn`` changes what it names of the first contender, ``attn`` with ``options``, as on the command line.
    """
    if isinstance(one, str) and "=" in one:
        raise UserError(f"versus: {one}: words are for the command line; write dict(attn='fna', landmarks=16).")
    if not isinstance(one, Mapping):
        return one, {"layers": layers}
    if "attn" not in one:
        return attn, {"layers": layers, **options, **one}
    return one["attn"], {"layers": layers, **{key: value for key, value in one.items() if key != "attn"}}
