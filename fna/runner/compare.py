"""`fna.compare`: a run on a module and a loader of one's own, by the stages that the command line takes."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor, nn

from fna.data.loading import Kept
from fna.errors import UserError
from fna.models.base import Model
from fna.ops.contract import autocasts
from fna.records import json_bytes, write_atomic
from fna.report import results, table
from fna.report.page import write_page
from fna.runner.asked import Asked
from fna.runner.callers import Build, library_contender, told_apart, versus_entry
from fna.runner.failures import line
from fna.runner.loaded import Loaded
from fna.runner.rows import RowStore
from fna.runner.run import contest, line_up
from fna.schema import ACCEPTED
from fna.surgery.blocks import find_tower
from fna.surgery.stacks import check_uncompiled
from fna.tasks.base import Run
from fna.tasks.own import Metric, Own, as_seen, own_dataset, own_model, tensor_of
from fna.values import between, held

WIDTH = 132  # of the printed table
AUTOCAST = "torch.autocast is on: products are in its dtype, whatever dtype this says, which is that of the weights"
UNCOMPILED = "hand over the one that torch.compile was given (compiled._orig_mod), which contenders change in turns"
TRAINING = "the model is in training mode, where dropout blurs the scores: call model.eval() before"


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
        """Write ``result.json``, ``table.md``, ``report.html`` and pictures into ``folder``; the path of the page.

        Raises `UserError` for the name of a file.
        """
        folder = Path(folder).expanduser()
        if folder.suffix in (".html", ".md", ".json") and not folder.is_dir():
            raise UserError(
                f"save({str(folder)!r}): give a folder, which takes a page, a table and pictures: {str(folder.with_suffix(''))!r}."
            )
        for name, content in self.files.items():
            write_atomic(folder / name, content)
        write_atomic(folder / "result.json", json_bytes(self.result))
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
    lower_is_better: bool,
    forward: Callable[[Tensor], Tensor] | None,
    layers: Any,
    rounds: int,
    bootstrap: int,
    seed: int,
    options: Mapping[str, Any],
) -> Comparison:
    """See `fna.compare`. ``options`` are those of the first variant beside ``layers``."""
    started = time.perf_counter()
    _check(metric, forward, versus, rounds=rounds, bootstrap=bootstrap, seed=seed)
    tower = find_tower(model)
    check_uncompiled([model, tower.module, *tower.blocks], UNCOMPILED)
    dataset, count = own_dataset(loader, "a loader")
    run = _forward_of(model) if forward is None else forward
    image = dataset.examples[0].pixels[None]
    own = own_model(model, image, type(model).__name__, run)
    _try(own, image)
    own = as_seen(own, image)
    asked = [(attn, {"layers": layers, **options}), *(versus_entry(one, attn, layers, options) for one in versus)]
    shared = {"landmarks": options["landmarks"]} if "landmarks" in options else {}
    wanted = told_apart([library_contender(name, dict(given), shared, build, rounds, seed, tower) for name, given in asked])
    cfg = OmegaConf.create(
        {
            "seed": seed, "bootstrap": bootstrap, "retry_failed": False, "gallery": 4, "limit": None, "expected": None,
            "dtype": str(own.dtype).removeprefix("torch."), "timing": {"enabled": rounds > 0, "rounds": rounds, "batch_size": 8},
        }
    )  # fmt: skip
    names = {"model": own.name, "dataset": dataset.name, "task": "own"}
    task = Own(loader, run, metric, held(bool, lower_is_better, "lower_is_better"))
    nothing: Any = None
    notes = (TRAINING,) * model.training + (AUTOCAST,) * autocasts(image.to(own.device))
    request = Asked(cfg, names, nothing, nothing, task, None, tuple(wanted), notes)
    with tempfile.TemporaryDirectory() as folder:
        loaded = Loaded(own, dataset, task, RowStore(Path(folder) / "rows"), Run(1, seed, kept=Kept(0)), {}, count)
        place = Path(folder) / "run"
        result = contest(request, loaded, line_up(request, loaded, place), place, started)
        files = {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}
    return Comparison(result, files)


def _check(metric: Any, forward: Any, versus: Any, *, rounds: Any, bootstrap: Any, seed: Any) -> None:
    """Raise `UserError` for an argument that no comparison could use."""
    if metric is not None and not isinstance(metric, str) and not callable(metric):
        raise UserError(f"metric={metric!r}: give top1, top5, a function of outputs and targets, or None.")
    if forward is not None and not callable(forward):
        raise UserError(f"forward={forward!r}: give a function of images that gives outputs, or leave it out.")
    if hasattr(forward, "_orig_mod") or hasattr(forward, "_torchdynamo_orig_callable"):
        raise UserError(
            "forward= is compiled, and torch.compile gives up what changes as often as here, where contenders run in turns: some "
            "would be timed compiled and some not. Give what it was made of; one variant alone is compiled inside fna.swap."
        )
    if isinstance(versus, str | Mapping) or not isinstance(versus, Sequence):
        raise UserError(f"versus={versus}: give a list of contenders, such as [{'exact' if versus is None else versus!r}].")
    held(Annotated[int, between(0, 100_000)], rounds, "rounds")
    held(ACCEPTED["bootstrap"], bootstrap, "bootstrap")
    held(ACCEPTED["seed"], seed, "seed")


def _try(model: Model, image: Tensor) -> None:
    """Raise `UserError` where the untouched model cannot take one of the loader's images."""
    try:
        if model.device.type == "meta":
            raise UserError("the model lies on the meta device, where it has no weights: load them first.")
        with torch.inference_mode():
            tensor_of(model.encode_image(image.to(model.device, model.dtype, copy=True)))  # type: ignore[misc]
    except UserError:
        raise
    except Exception as error:
        shape = " x ".join(map(str, image.shape[1:]))
        raise UserError(f"the model cannot take an image of the loader ({shape}): {line(error)}") from error


def _forward_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a module makes of images: its image tower's embedding where it has one, else its output."""
    call = getattr(model, "encode_image", None) or getattr(model, "get_image_features", None) or model

    def forward(images: Tensor) -> Tensor:
        return tensor_of(call(images))

    return forward
