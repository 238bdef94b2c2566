"""`fna.compare`: a run on a module and a loader of one's own, by the stages that the command line takes."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor, nn

from fna.data.loading import Kept
from fna.errors import UserError
from fna.ops.landmarks import FarthestPoint
from fna.records import json_bytes, write_atomic
from fna.report import results, table
from fna.report.page import write_page
from fna.runner.asked import Asked, Wanted
from fna.runner.loaded import Loaded
from fna.runner.rows import RowStore
from fna.runner.run import contest
from fna.surgery.plan import parse_layers
from fna.tasks.base import Run
from fna.tasks.own import Metric, Own, own_dataset, own_model, tensor_of

WIDTH = 132  # of the printed table
Build = Callable[..., tuple[Any, Any, Any]]  # what was asked for -> op, mask, reducer (`fna.api.parts`)


@dataclass(frozen=True)
class Comparison:
    """``result``: what ``result.json`` of a run holds; ``files``: pictures of its page. Printed, it is the table of all of it."""

    result: dict[str, Any]
    files: Mapping[str, bytes]

    def __str__(self) -> str:
        text = io.StringIO()
        console = Console(file=text, width=WIDTH)
        if self.result.get("contenders"):
            table.show_sweep([results.Run(Path(), "", self.result)], console)
        else:
            table.show(self.result, console)
        return text.getvalue()

    def save(self, folder: str | Path) -> Path:
        """Write ``result.json``, ``table.md``, ``report.html`` and pictures into ``folder``; the path of the page."""
        for name, content in self.files.items():
            write_atomic(Path(folder) / name, content)
        write_atomic(Path(folder) / "result.json", json_bytes(self.result))
        table.write_markdown(folder)
        return write_page(folder)


def compare(
    model: nn.Module,
    loader: Iterable[Any],
    attn: Any,
    build: Build,
    *,
    versus: Sequence[Any],
    metric: str | Metric | None,
    forward: Callable[[Tensor], Tensor] | None,
    layers: Any,
    rounds: int,
    bootstrap: int,
    seed: int,
    options: Mapping[str, Any],
) -> Comparison:
    """See `fna.compare`. ``options`` are those of the first variant beside ``layers``."""
    started = time.perf_counter()
    dataset, count = own_dataset(loader, "a loader")
    run = forward or _forward_of(model)
    own = own_model(model, dataset.examples[0].pixels[None], type(model).__name__, run)
    if isinstance(versus, str):
        raise UserError(f"versus={versus}: give a list of contenders, such as [{versus!r}].")
    asked = [(attn, {"layers": layers, **options}), *(_others(one, layers) for one in versus)]
    shared = {"landmarks": options["landmarks"]} if "landmarks" in options else {}
    wanted = [_wanted(name, dict(given), shared, build, rounds, seed, own.depth) for name, given in asked]
    cfg = OmegaConf.create(
        {
            "seed": seed, "bootstrap": bootstrap, "retry_failed": False, "gallery": 4, "limit": None, "expected": None,
            "dtype": str(own.dtype).removeprefix("torch."), "timing": {"enabled": rounds > 0, "rounds": rounds, "batch_size": 8},
        }
    )  # fmt: skip
    names = {"model": own.name, "dataset": dataset.name, "task": "own"}
    task = Own(loader, run, metric)
    nothing: Any = None
    request = Asked(cfg, names, nothing, nothing, task, None, tuple(wanted))
    with tempfile.TemporaryDirectory() as folder:
        loaded = Loaded(own, dataset, task, RowStore(Path(folder) / "rows"), Run(1, seed, kept=Kept(0)), {}, count)
        result = contest(request, loaded, Path(folder) / "run", started)
        kept = [file for file in (Path(folder) / "run").rglob("*") if file.is_file()]
        files = {str(file.relative_to(Path(folder) / "run")): file.read_bytes() for file in kept}
    return Comparison(result, files)


def _wanted(
    attn: Any, given: dict[str, Any], shared: Mapping[str, Any], build: Build, rounds: int, seed: int, depth: int
) -> Wanted:
    """A contender of the library as one of the command line: ``given`` names it, ``shared`` holds where it says nothing."""
    layers = given.pop("layers")
    blocks = list(parse_layers(layers, depth))
    op, mask, reduce = build(attn, seed=seed, **{**(shared if isinstance(attn, str) else {}), **given})
    name = attn if isinstance(attn, str) else type(attn).__name__
    told = {key: _told(value) for key, value in given.items() if value is not None}
    own = {group: str(told.get(group, "none")) for group in ("mask", "reduce")} | {"sampler": _sampler(op, told)}
    settings: dict[str, Any] = {
        "layers": blocks,
        "landmarks": told.get("landmarks", shared.get("landmarks", 64)) if hasattr(op, "landmarks") else None,
        "tolerance": 0.1,
        "rows_dir": "rows",
        "attn": {} if own["sampler"] == "none" else {"sampler": own["sampler"]},
        "sampler": own["sampler"],
    }
    cfg = OmegaConf.create(settings | {"timing": {"batch_size": 8, "rounds": rounds}})
    label = " ".join([name, *(f"{key}={value}" for key, value in told.items())])
    return Wanted(label, {"attn": name, "kv": "none", **own}, cfg, op, mask, reduce)


def _sampler(op: Any, told: Mapping[str, Any]) -> str:
    """What draws the op's landmarks: as it was named, else the default by its name, else by its class."""
    drawn = getattr(op, "sampler", None)
    if drawn is None:
        return "none"
    return str(told.get("sampler", "fps" if isinstance(drawn, FarthestPoint) else type(drawn).__name__))


def _told(value: Any) -> str | int | float:
    """An option in a label: itself, or the class of an object."""
    return value if isinstance(value, str | int | float) else type(value).__name__


def _others(one: Any, layers: Any) -> tuple[Any, dict[str, Any]]:
    """One entry of ``versus``: an attention, or a dict of ``attn`` and its options."""
    if not isinstance(one, Mapping):
        return one, {"layers": layers}
    if "attn" not in one:
        raise UserError(f"versus: {dict(one)} names no attn; write each contender as dict(attn='fna', landmarks=16).")
    return one["attn"], {"layers": layers, **{key: value for key, value in one.items() if key != "attn"}}


def _forward_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a module makes of images: its image tower's embedding where it has one, else its output."""
    call = getattr(model, "encode_image", None) or getattr(model, "get_image_features", None) or model

    def forward(images: Tensor) -> Tensor:
        return tensor_of(call(images))

    return forward
