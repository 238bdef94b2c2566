"""Stage 3, the variants: blocks and counts measured where they are ``auto``, masks calibrated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fna.ops.exact import Exact
from fna.runner.auto import Choice, choose
from fna.runner.loaded import Loaded
from fna.runner.wanted import Wanted
from fna.surgery.blocks import find_tower
from fna.surgery.plan import Layers
from fna.surgery.variant import Variant, exact
from fna.tasks.calibration import calibrated
from fna.tasks.images import first_images

CALIBRATION, CHOICES = "calibration", "auto"  # folders beside the rows


@dataclass(frozen=True)
class Contender:
    """A variant ready to run, and what it was asked for as. ``layers``: blocks with its attention. ``choice``: what auto chose."""

    wanted: Wanted
    variant: Variant
    layers: tuple[int, ...]
    choice: Choice | None = None

    @property
    def label(self) -> str:
        """What it is called beside the others."""
        return self.variant.label

    @property
    def baseline(self) -> Variant:
        """Exact attention in the same blocks."""
        return exact(self.layers)

    def facts(self, depth: int) -> dict[str, Any]:
        """What ``result.json`` says of it beyond the names of its options."""
        auto = {} if self.choice is None else {"auto": asdict(self.choice) | {"tolerance": self.wanted.cfg.tolerance}}
        methods = ", ".join(f"{spec}: {name}" for spec, name in self.wanted.cfg.layers.items()) if self.wanted.methods else ""
        plan = {"plan": methods} if methods else {}
        return self.variant.facts(depth) | auto | plan


def settle(wanted: Wanted, loaded: Loaded) -> list[Contender]:
    """The contender, and the one without its mask where ``mask.unmasked`` asks for that beside it.

    Raises `UserError` for blocks that the model lacks, and where a mask cannot be calibrated or auto has no image to measure on.
    """
    model, folder = loaded.model, Path(wanted.cfg.rows_dir).parent
    choice = _chosen(wanted, loaded, folder / CHOICES) if wanted.auto else None
    if choice is None:
        ops = wanted.ops(model.depth, find_tower(model.tower).windowed) if _attends(wanted, loaded) else {}
        layers = tuple(ops)
    else:
        layers = choice.blocks(model.depth)
        ops = choice.ops(wanted.op) or dict(exact(layers).ops)
    mask = wanted.mask
    beside = bool(getattr(mask, "unmasked", False))
    if mask is not None:
        mask.check(model.depth)
        ready: Any = calibrated(mask, model, loaded.dataset, folder / CALIBRATION)
        mask = replace(ready, unmasked=False)
    variant = Variant(wanted.label, ops, mask, wanted.reduce, wanted.kv)
    variant.check(model.depth)
    variant.fits(model.tower)
    found = [Contender(wanted, variant, layers, choice)]
    if beside:
        bare = variant.unmasked()
        names = {**wanted.names, "mask": "none"}
        found.append(Contender(replace(wanted, label=bare.label, names=names, mask=None), bare, layers, choice))
    return found


def _attends(wanted: Wanted, loaded: Loaded) -> bool:
    """Whether any block is changed: of a language model the cache is what is asked for, where attention is exact."""
    return not (loaded.model.writes and isinstance(wanted.op, Exact))


def _chosen(wanted: Wanted, loaded: Loaded, folder: Path) -> Choice:
    cfg: DictConfig = wanted.cfg
    images = first_images(loaded.model, loaded.dataset, cfg.timing.batch_size)
    layers: Layers = cfg.layers if isinstance(cfg.layers, str | int) else list(cfg.layers)
    return choose(
        loaded.model, wanted.op, images, layers=layers, landmarks=cfg.landmarks, tolerance=cfg.tolerance, cache=folder
    )  # fmt: skip
