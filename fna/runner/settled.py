"""Stage 3, the variants: blocks and counts measured where they are ``auto``, masks calibrated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from fna.configs import instantiate
from fna.errors import UserError
from fna.ops.contract import Attention
from fna.ops.exact import Exact
from fna.runner.assign import Assigned, assign
from fna.runner.auto import Choice, choose
from fna.runner.loaded import Loaded
from fna.runner.wanted import Wanted
from fna.surgery.blocks import find_tower
from fna.surgery.plan import Layers
from fna.surgery.variant import Variant, exact
from fna.tasks.calibration import calibrated
from fna.tasks.images import first_images
from fna.values import shown

CALIBRATION, CHOICES = "calibration", "auto"  # folders beside the rows


@dataclass(frozen=True)
class Contender:
    """A variant ready to run, and what it was asked for as. ``layers``: blocks with its attention. ``choice``: what auto chose."""

    wanted: Wanted
    variant: Variant
    layers: tuple[int, ...]
    choice: Choice | Assigned | None = None

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
        cfg = self.wanted.cfg
        kept = {"tolerance": cfg.tolerance, "kept": str(Path(cfg.rows_dir).absolute().parent / CHOICES)}
        auto = {} if self.choice is None else {"auto": asdict(self.choice) | kept}
        plan = {"plan": self._plan()} if self.wanted.methods else {}
        return self.variant.facts(depth) | auto | plan

    def _plan(self) -> str:
        """Which blocks get which method, as it would be typed."""
        if isinstance(self.choice, Assigned):
            return self.choice.plan()
        return ", ".join(f"{spec}: {name}" for spec, name in self.wanted.cfg.layers.items())


def settle(wanted: Wanted, loaded: Loaded) -> list[Contender]:
    """The contender, and the one without its mask where ``mask.unmasked`` asks for that beside it.

    Raises `UserError` for blocks that the model lacks, and where a mask cannot be calibrated or auto has no image to measure on.
    """
    model, folder = loaded.model, Path(wanted.cfg.rows_dir).parent
    choice = None
    if wanted.auto:
        choice, ops = _chosen(wanted, loaded, folder / CHOICES)
        layers = choice.blocks(model.depth)
        ops = ops or dict(exact(layers).ops)
    else:
        ops = wanted.ops(model.depth, find_tower(model.tower).unasked) if _attends(wanted, loaded) else {}
        layers = tuple(ops)
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


def _chosen(wanted: Wanted, loaded: Loaded, folder: Path) -> tuple[Choice | Assigned, dict[int, Attention]]:
    """What was measured to be worth it, and the attention of each of those blocks."""
    cfg: DictConfig = wanted.cfg
    if wanted.divided:
        images = _unseen(wanted, loaded)
        assigned = assign(loaded.model, loaded.task, wanted.methods, images, tolerance=cfg.tolerance, cache=folder)
        return assigned, assigned.ops(wanted.methods)
    images = first_images(loaded.model, loaded.dataset, cfg.timing.batch_size)
    layers: Layers = cfg.layers if isinstance(cfg.layers, str | int) else list(cfg.layers)
    choice = choose(
        loaded.model, wanted.op, images, layers=layers, landmarks=cfg.landmarks, tolerance=cfg.tolerance, cache=folder
    )  # fmt: skip
    return choice, choice.ops(wanted.op)


def _unseen(wanted: Wanted, loaded: Loaded) -> Tensor:
    """A batch of images that the run does not test: those to learn from, where the data set has some, else those past ``limit``.

    Evenly spread, as classes may come one after the other. Raises `UserError` where there is none.
    """
    cfg, dataset = wanted.cfg, loaded.dataset
    learnt = getattr(dataset, "training", None)
    whole = learnt() if learnt is not None else instantiate(cfg.dataset).load(None)
    tested = set() if learnt is not None else {example.image for example in dataset.examples}
    spare = [example for example in whole.examples if example.image not in tested]
    if not spare:
        raise UserError(
            f"layers={shown(cfg.layers)}: methods are measured on images that are not tested, and of {dataset.name} all "
            f"{len(whole.examples)} are; leave some with limit=N."
        )
    count = cfg.timing.batch_size
    return first_images(loaded.model, replace(whole, examples=spare[:: max(1, len(spare) // count)]), count)
