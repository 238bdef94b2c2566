"""One contender as it was asked for: its parts, and which block gets which attention."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fna.configs import build_attention, load_option
from fna.errors import UserError
from fna.runner.chosen import named
from fna.runner.settings import by_knob
from fna.surgery.plan import parse_layers, parse_plan
from fna.values import shown

AUTO = "auto"


@dataclass(frozen=True)
class Wanted:
    """One contender as it was asked for: its whole config, the names of its options by group, and the parts built from them.

    ``op``'s count of landmarks is a placeholder, and ``mask`` not calibrated yet, where that takes the model. ``methods``: name ->
    attention of all that a plan in ``layers`` names; empty where all blocks get ``op``.
    """

    label: str
    names: Mapping[str, str]
    cfg: DictConfig
    op: Any
    mask: Any = None
    reduce: Any = None
    kv: Any = None
    methods: Mapping[str, Any] = field(default_factory=dict)

    def ops(self, depth: int, local: Collection[int] = ()) -> dict[int, Any]:
        """Block -> attention, ``layers=auto`` apart. ``local``: blocks that attend in windows."""
        if self.methods:
            return {block: self.methods[name] for block, name in parse_plan(self.cfg.layers, depth, local=local).items()}
        return dict.fromkeys(parse_layers(self.cfg.layers, depth, local=local), self.op)

    @property
    def auto(self) -> bool:
        """Whether blocks, counts or methods are to be measured."""
        return AUTO in (self.cfg.landmarks, self.cfg.layers) or self.divided

    @property
    def divided(self) -> bool:
        """Whether each block is to get one of several methods by measurement: ``layers={auto: [fna_local, fna_plus]}``."""
        return OmegaConf.is_dict(self.cfg.layers) and AUTO in self.cfg.layers


def methods_of(cfg: DictConfig, names: Mapping[str, str], op: Any) -> dict[str, Any]:
    """The attentions that a plan names: ``op`` for the one that ``attn`` names, the others with their own defaults."""
    asked = named(cfg.layers)
    if cfg.landmarks == AUTO:
        raise UserError("landmarks=auto is measured for one method in all its blocks: give a count beside a plan in layers=.")
    shared = {"landmarks": cfg.landmarks, "sampler": names.get("sampler", "fps"), "seed": cfg.seed}
    found = {}
    for name in [name for name in asked if name != names["attn"]]:
        try:
            found[name] = build_attention(name, **shared)
        except UserError as error:
            raise UserError(by_knob(str(error), "attn", name)) from error
    if names["attn"] not in asked:
        raise UserError(f"layers={shown(cfg.layers)}: attn={names['attn']} stands in none of these; give attn= one of its methods.")
    return {**found, names["attn"]: op}


def network(cfg: DictConfig, option: str) -> str:
    """How a run's model is called: by ``model.name`` where that is not the option's own, else by the option."""
    own, given = load_option("model", option).get("name"), cfg.model.get("name")
    return option if given in (own, None) else Path(str(given)).name
