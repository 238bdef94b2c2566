"""Stage 3, the variants: blocks and counts measured where they are ``auto``, masks calibrated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fna.ops.exact import Exact
from fna.runner.asked import Wanted
from fna.runner.auto import Choice, choose
from fna.runner.loaded import Loaded
from fna.surgery.plan import Layers, parse_layers
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
        return self.variant.facts(depth) | auto


def settle(wanted: Wanted, loaded: Loaded) -> list[Contender]:
    """The contender, and the one without its mask where ``mask.unmasked`` asks for that beside it.

    Raises `UserError` for blocks that the model lacks, and where a mask cannot be calibrated or auto has no image to measure on.
    """
    model, folder = loaded.model, Path(wanted.cfg.rows_dir).parent
    choice = _chosen(wanted, loaded, folder / CHOICES) if wanted.auto else None
    layers = parse_layers(wanted.cfg.layers, model.depth) if choice is None else choice.blocks(model.depth)
    if (model.decoder is not None or model.answer is not None) and isinstance(wanted.op, Exact):
        layers = ()  # a model that writes: of its cache is what is asked, its attention is exact
    ops = dict.fromkeys(layers, wanted.op) if choice is None else choice.ops(wanted.op) or dict(exact(layers).ops)
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


def _chosen(wanted: Wanted, loaded: Loaded, folder: Path) -> Choice:
    cfg: DictConfig = wanted.cfg
    images = first_images(loaded.model, loaded.dataset, cfg.timing.batch_size)
    layers: Layers = cfg.layers if isinstance(cfg.layers, str | int) else list(cfg.layers)
    return choose(
        loaded.model, wanted.op, images, layers=layers, landmarks=cfg.landmarks, tolerance=cfg.tolerance, cache=folder
    )  # fmt: skip
