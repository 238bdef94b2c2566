"""Landmarks with a say about categories: CLS, massive and artifact tokens guaranteed, excluded, or left to chance.

For the ablation of FNA's authors (facts §1.7): guaranteeing CLS helps by 2 to 6 points, forcing artifacts in costs as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fna.masking.masked import Found
from fna.masking.rules import patches
from fna.ops.contract import Site
from fna.ops.landmarks import Landmarks, TokenSampler

CHOICES = ("ignore", "keep", "drop")
Part = Literal["ignore", "keep", "drop"]


@dataclass(frozen=True)
class Guaranteed:
    """``sampler`` with each category ignored, kept (in every landmark set, as far as there is room) or dropped (in none).

    Massive and artifact tokens have to be found first (mask=found, or a mask). ``cls`` speaks for all tokens before the patches.
    """

    sampler: TokenSampler
    cls: Part = "keep"
    massive: Part = "ignore"
    artifact: Part = "ignore"
    gives: ClassVar[type] = Landmarks
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for knob in ("cls", "massive", "artifact"):
            if getattr(self, knob) not in CHOICES:
                raise ValueError(f"sampler.{knob}={getattr(self, knob)}: choose one of {', '.join(CHOICES)}.")

    def facts(self) -> dict[str, str]:
        """What a result says of it."""
        return {"guarantee": f"CLS {self.cls}, massive {self.massive}, artifact {self.artifact}"}

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Landmarks:
        """Landmarks ``[B, count]``. The caller's ``keep`` speaks of CLS only and is replaced; its ``drop`` stays."""
        shape = (q.shape[0], k.shape[2])
        chosen = {name: torch.zeros(shape, dtype=torch.bool, device=q.device) for name in CHOICES}
        chosen[self.cls] = chosen[self.cls] | ~patches(site, shape[1]).to(q.device)
        for name in ("massive", "artifact"):
            if getattr(self, name) != "ignore":
                chosen[getattr(self, name)] = chosen[getattr(self, name)] | Found(name)(q, k, site)
        hidden = torch.zeros(shape, dtype=torch.bool, device=q.device) if drop is None else drop.expand(shape)
        return self.sampler(q, k, v, site, count, chosen["keep"] & ~hidden, chosen["drop"] | hidden)
