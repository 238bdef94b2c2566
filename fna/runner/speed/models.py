"""Whole models: random weights in the shapes of ViT-Ti to ViT-L, with each attention, and with none at all as the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fna.models.base import Model
from fna.models.open_clip import OpenClipModel
from fna.models.timm import TimmModel
from fna.ops.absorbed import apart
from fna.ops.contract import Attention, Site
from fna.ops.exact import Exact
from fna.ops.kernels import cpu
from fna.runner.flops import Forward
from fna.runner.memory import peak_bytes
from fna.runner.speed.ops import Progress, Row, attentions, timing
from fna.runner.speed.yardstick import Yardstick
from fna.runner.turns import Clocked, in_turns, share_inside, share_of_saving, stages
from fna.surgery.plan import parse_layers
from fna.surgery.swap import swap_tower

SHAPES = {
    "vit_ti": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "vit_l": "vit_large_patch14_224",
    "dinov2_s": "vit_small_patch14_dinov2",
    "dinov2_l": "vit_large_patch14_dinov2",
}
ZOO = {"clip_shapes": "zoo:clip_shapes"}  # embedded in fna, with its weights
Context = Callable[[], AbstractContextManager[Any]]


class ValuePath:
    """No attention: every token keeps its own value. What is left is what no attention, however fast, could save."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """``v`` as it is."""
        return v


@dataclass(frozen=True)
class ModelCase:
    """One whole-model measurement. ``size``: pixels a side. ``layers``: which blocks are changed, as on the command line."""

    model: str = "vit_b"
    size: int = 512
    batch: int = 4
    layers: str = "last-half"
    landmarks: int = 64
    dtype: str = "float32"
    device: str = "cpu"

    def build(self) -> Model:
        """The network, with weights drawn from seed 0 where it is not fna's own."""
        source = OpenClipModel(ZOO[self.model]) if self.model in ZOO else TimmModel(SHAPES[self.model], random=True)
        return source.build(image_size=self.size, device=self.device, dtype=self.dtype, seed=0)

    def images(self, model: Model) -> Tensor:
        """Noise ``[batch, 3, size, size]``."""
        return torch.randn(self.batch, 3, self.size, self.size, device=model.device, dtype=model.dtype)


def measure_model(
    case: ModelCase,
    model: Model,
    names: Sequence[str],
    rounds: int,
    *,
    rivals: bool = True,
    options: Mapping[str, Any] | None = None,
) -> list[Row]:
    """One row a variant: milliseconds, speedup over full, the share of the attainable saving that it realises, sampling's share.

    ``rivals``: with exact attention and the yardstick, and everybody's peak memory. ``options``: of the methods' own.
    """
    chosen = parse_layers(case.layers, model.depth)
    ops: dict[str, Attention] = {**attentions(names, case.landmarks, options), "no attention": ValuePath()}
    if rivals:
        ops |= {"exact": Exact(), "yardstick": Yardstick(case.landmarks)}
    contexts: dict[str, Context] = {"full": nullcontext} | {name: _swapped(model, op, chosen) for name, op in ops.items()}
    if rivals and "fna" in ops and model.device.type == "cpu" and cpu.built():
        contexts["fna, plain torch"] = _under(cpu.without_kernels, contexts["fna"])
    forward, images = _forward(model), case.images(model)
    seconds = in_turns(forward, contexts, images, rounds)  # changing the attention and back is not timed
    rows = []
    for name, values in seconds.items():
        row = {"kind": "model", "method": name, **_columns(case, model), **timing(values, seconds["full"])}
        row |= _realised(seconds, name)
        if name == "fna":
            ours, theirs = _clocked(model, ops["fna"], chosen), _clocked(model, Exact(), chosen)
            turns = max(2, rounds // 3)
            row["sampling_share"] = stages(forward, ours, images, turns).get("sampling", 0.0)
            with apart():  # projections are no part of what exact attention's clocks count
                inside = share_inside(forward, ours, theirs, images, turns)
            row |= {"inside": inside["median"], "inside_low": inside["ci"][0], "inside_high": inside["ci"][1]}
        if rivals:
            with contexts[name](), torch.inference_mode():
                row["peak_bytes"] = peak_bytes(lambda: forward(images), model.device)
        rows.append(row)
    return rows


def measure_times(case: ModelCase, model: Model, rounds: int, options: Mapping[str, Any] | None = None) -> list[Row]:
    """FNA, exact attention and none at all in the same blocks, and the model untouched: speedups over the faster exact one.

    FNA twice: with the layers round it absorbed where that pays, and apart (`fna.ops.absorbed`).
    """
    chosen = parse_layers(case.layers, model.depth)
    ops: dict[str, Attention] = {**attentions(("fna",), case.landmarks, options), "exact": Exact(), "no attention": ValuePath()}
    contexts: dict[str, Context] = {"full": nullcontext} | {name: _swapped(model, op, chosen) for name, op in ops.items()}
    contexts["fna, layers apart"] = _under(apart, contexts["fna"])
    forward, images = _forward(model), case.images(model)
    seconds = in_turns(forward, contexts, images, rounds)
    baseline = min((seconds["full"], seconds["exact"]), key=lambda values: float(np.median(values)))
    about = {"kind": "times exact", **_columns(case, model)}
    return [{**about, "method": name, **timing(values, baseline)} for name, values in seconds.items()]


def _forward(model: Model) -> Forward:
    forward = model.classify or model.encode_image
    assert forward is not None
    return forward


def _swapped(model: Model, op: Attention, layers: Sequence[int]) -> Context:
    return lambda: swap_tower(model.tower, dict.fromkeys(layers, op))


def _clocked(model: Model, op: Attention, layers: Sequence[int]) -> Clocked:
    return lambda clock: swap_tower(model.tower, dict.fromkeys(layers, op), clock=clock)


def _under(outer: Context, context: Context) -> Context:
    @contextmanager
    def both() -> Iterator[None]:
        with outer(), context():
            yield

    return both


def _columns(case: ModelCase, model: Model) -> Row:
    return {
        "model": case.model, "size": case.size, "layers": case.layers, "batch": case.batch, "tokens": model.token_count,
        "landmarks": case.landmarks, "dtype": case.dtype, "device": model.device.type,
    }  # fmt: skip


def _realised(seconds: dict[str, np.ndarray], name: str) -> Row:
    """The share of the attainable saving, with its interval: 1 is attention for nothing."""
    if name in ("full", "no attention"):
        return {}
    share = share_of_saving(seconds["full"], seconds[name], seconds["no attention"])
    return {"realised": share["median"], "realised_low": share["ci"][0], "realised_high": share["ci"][1]}


def sweep_models(cases: Sequence[ModelCase], names: Sequence[str], rounds: int, say: Progress) -> list[Row]:
    """All cases; a network is built once for consecutive cases that share it."""
    rows: list[Row] = []
    built: tuple[tuple[Any, ...], Model] | None = None
    for case in cases:
        key = (case.model, case.size, case.dtype, case.device)
        if built is None or built[0] != key:
            built = (key, case.build())
        say(f"model: {case.model} at {case.size} px, blocks {case.layers}")
        rows += measure_model(case, built[1], names, rounds)
    return rows
