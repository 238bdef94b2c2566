"""``layers=auto`` and ``landmarks=auto``: measured on a calibration batch, once for each model and batch.

- ``landmarks=auto``: in every block the smallest count whose output is within ``tolerance`` (relative error) of exact attention on
  the same q, k, v. A block where no count is good enough keeps full attention.
- ``layers=auto``: only blocks where the method, its share of the sampling included, is faster than fused attention at this
  number of tokens, on this machine, in turns. With a given count these are taken from the last half (early blocks are not
  low-rank), with ``landmarks=auto`` from all blocks, since the tolerance sorts them.

Errors are those of one block with exact attention before it: they do not add up to the error of the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.machine import processor
from fna.models.base import Model
from fna.models.weights import digest
from fna.ops.contract import Attention, Memo, Site
from fna.ops.exact import Exact
from fna.ops.kernels import cpu
from fna.records import kept
from fna.runner.quiet import Watch
from fna.runner.rows import row_key
from fna.runner.speed.turns import in_turns
from fna.runner.turns import median_ratio
from fna.runner.wanted import AUTO
from fna.surgery.blocks import find_tower
from fna.surgery.plan import Layers
from fna.surgery.swap import swap_tower
from fna.versions import versions

LADDER = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
TOLERANCE, ROUNDS, VERSION = 0.1, 9, 1


@dataclass(frozen=True)
class Choice:
    """What was chosen. ``landmarks``: block -> count, blocks that are not in it keep full attention; ``why``: a line a decision.

    ``errors``: block -> count -> relative output error; ``speedups``: count -> times as fast as exact attention (median); ``busy``:
    who they had to wait for while they were timed.
    """

    landmarks: dict[int, int | float]
    why: list[str]
    errors: dict[int, dict[int | float, float]] = field(default_factory=dict)
    speedups: dict[int | float, float] = field(default_factory=dict)
    busy: str = ""

    def blocks(self, depth: int) -> tuple[int, ...]:
        """The chosen blocks; the last one, which then runs exact attention, where none was worth it."""
        return tuple(sorted(self.landmarks)) or (depth - 1,)

    def ops(self, op: Any) -> dict[int, Attention]:
        """``op`` for every chosen block, with its count."""
        return {layer: replace(op, landmarks=count) for layer, count in self.landmarks.items()}


def choose(
    model: Model,
    op: Any,
    images: Tensor,
    *,
    layers: Layers,
    landmarks: int | float | str,
    tolerance: float = TOLERANCE,
    cache: Path | None = None,
) -> Choice:
    """Decide on blocks and counts for ``op`` (a frozen dataclass with ``landmarks``) on ``images`` ``[B, 3, h, w]``.

    ``layers`` or ``landmarks`` is "auto", or both are; the other is kept. ``cache``: a folder in which a choice is found again by
    model, images, device and what was asked.
    """
    file = None if cache is None else cache / f"{_key(model, op, images, layers, landmarks, tolerance)}.json"
    return _restored(kept(file, lambda: asdict(_measured(model, op, images, layers, landmarks, tolerance))))


def _measured(model: Model, op: Any, images: Tensor, layers: Layers, landmarks: int | float | str, tolerance: float) -> Choice:
    counts = tuple(count for count in LADDER if 2 * count <= model.token_count) if landmarks == AUTO else (landmarks,)
    blocks = find_tower(model.tower).layers(_candidates(layers, landmarks))
    look = _Look(op, [count for count in counts if not isinstance(count, str)], landmarks == AUTO)
    with swap_tower(model.tower, dict.fromkeys(blocks, look)), torch.inference_mode():
        _forward(model, images)
    with Watch.of(model.device) as watch:
        speedups = _speedups(look, len(blocks)) if layers == AUTO else {}
    return replace(_decide(blocks, look, speedups, tolerance), busy=watch.load.said() if speedups else "")


def _candidates(layers: Layers, landmarks: int | float | str) -> Layers:
    if layers != AUTO:
        return layers
    return "all" if landmarks == AUTO else "last-half"


def _forward(model: Model, images: Tensor) -> Tensor:
    forward = model.encode_image or model.classify or model.patches
    assert forward is not None, f"{model.name} can do nothing with an image"
    return forward(images)


class _Look:
    """Exact attention that notes, in every block, how far ``op`` would be off with each count; keeps one call for timing."""

    def __init__(self, op: Any, counts: list[int | float], judged: bool) -> None:
        self.ops: dict[int | float, Attention] = {count: replace(op, landmarks=count) for count in counts}
        self.judged = judged
        self.errors: dict[int, dict[int | float, float]] = {}
        self.call: tuple[Tensor, Tensor, Tensor, Site] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """Exact attention."""
        exact = Exact()(q, k, v, site)
        if self.judged:
            self.errors[site.layer] = {count: _error(op(q, k, v, site), exact) for count, op in self.ops.items()}
        if self.call is None:
            self.call = (q.clone(), k.clone(), v.clone(), replace(site, memo={}))
        return exact


def _error(out: Tensor, exact: Tensor) -> float:
    """Relative Frobenius error over the whole batch."""
    return float((out.float() - exact.float()).norm() / exact.float().norm())


def _speedups(look: _Look, blocks: int) -> dict[int | float, float]:
    """Times as fast as exact attention, by count: the op with its landmarks given, plus one draw shared by so many blocks."""
    assert look.call is not None
    q, k, v, site = look.call
    found = {}
    for count, op in look.ops.items():
        given: Memo = {}
        op(q, k, v, replace(site, memo=given))
        seconds = in_turns(
            {
                "exact": lambda turn: Exact()(q, k, v, site),
                "given": lambda turn, op=op, given=given: op(q, k, v, replace(site, memo=given)),  # type: ignore[misc]
                "drawn": lambda turn, op=op: op(q, k, v, replace(site, memo={})),  # type: ignore[misc]
            },
            ROUNDS,
            q.device,
        )
        draw = (seconds["drawn"] - seconds["given"]).clip(min=0)
        found[count] = median_ratio(seconds["exact"], seconds["given"] + draw / blocks)["median"]
    return found


def _decide(blocks: tuple[int, ...], look: _Look, speedups: Mapping[int | float, float], tolerance: float) -> Choice:
    """The smallest count of each block that is good enough and, where speed was measured, faster."""
    landmarks: dict[int, int | float] = {}
    why = []
    for block in blocks:
        errors = look.errors.get(block, {})
        good = [count for count in look.ops if errors.get(count, 0.0) <= tolerance]
        fast = [count for count in good if speedups.get(count, torch.inf) > 1]
        if fast:
            landmarks[block] = fast[0]
            said = [f"error {errors[fast[0]]:.3f} <= {tolerance:g}"] if errors else []
            said += [f"{speedups[fast[0]]:.2f} times as fast as exact attention"] if speedups else []
            why.append(f"block {block}: {fast[0]} landmarks ({', '.join(said)})")
        elif good:
            why.append(f"block {block}: full attention, since {good[0]} landmarks run at {speedups[good[0]]:.2f} times its speed")
        else:
            best = min(errors.values(), default=torch.inf)
            why.append(f"block {block}: full attention, since no count comes under {tolerance:g} (best error {best:.3f})")
    return Choice(landmarks, why, look.errors, dict(speedups))


def _key(model: Model, op: Any, images: Tensor, layers: Layers, landmarks: int | float | str, tolerance: float) -> str:
    asked = {"layers": str(layers), "landmarks": str(landmarks), "tolerance": tolerance}
    return row_key({"auto": VERSION, "op": [repr(op), versions(op)], **asked, **measured_on(model, images)})


def measured_on(model: Model, images: Tensor) -> dict[str, Any]:
    """What a measurement holds for: the machine, the model and its dtype, the images."""
    cores = f"{processor()} x {torch.get_num_threads()}, {'C++' if cpu.built() else 'plain'}"
    machine = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else cores
    return {"machine": machine, "model": model.identity, "dtype": str(model.dtype), "images": digest({"images": images})}


def _restored(stored: Mapping[str, Any]) -> Choice:
    """A choice from its record: JSON turned the numbers of blocks and counts into text."""

    def number(text: str) -> int | float:
        return float(text) if "." in text else int(text)

    return Choice(
        landmarks={int(block): count for block, count in stored["landmarks"].items()},
        why=stored["why"],
        errors={int(block): {number(count): error for count, error in found.items()} for block, found in stored["errors"].items()},
        speedups={number(count): value for count, value in stored["speedups"].items()},
        busy=stored.get("busy", ""),
    )
