"""Softmax over a few sampled keys alone: the simplest thing that landmarks can be used for, and so a control.

    out = softmax(s Q k_pᵀ) v_p

Keys that were not sampled are not there. No paper's method; the sampled twin of `fna.ops.pooled_kv`, and what FNA (arXiv
2507.16018) would be without its inverse. Time O(N M d) a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from torch import Tensor

from fna.ops.contract import Site, pair_bias, refuse, same_tokens
from fna.ops.drawing import check_landmarks, check_sampler, draw
from fna.ops.landmarks import FarthestPoint, Landmarks, TokenSampler
from fna.ops.nystrom import additive
from fna.ops.rows import gather_rows
from fna.ops.short import few_keys
from fna.values import Count, between


@dataclass(frozen=True)
class Subset:
    """Attention over the keys that ``sampler`` takes. ``landmarks``, ``resample_every``, what is honoured: as in `FastNystrom`."""

    sampler: TokenSampler = field(default_factory=FarthestPoint)
    landmarks: Count | float = 64
    resample_every: Annotated[int, between(0, 1_000)] = 0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)
        check_sampler(self, self.sampler, Landmarks)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal")
        relative = pair_bias(self, site)
        same_tokens(self, q, k, site)
        drawn = draw(self.sampler, q, k, v, site, self.landmarks, self.resample_every)
        with site.clock("gather"):
            keys, values = gather_rows(k, drawn.index), gather_rows(v, drawn.index)
            bias = additive(site.keys, site.key_bias)
            bias = None if bias is None else bias.gather(1, drawn.index)
            if drawn.valid is not None:
                bias = additive(drawn.valid, bias)
            pairs = None if relative is None else relative.columns(drawn.index).to(q.dtype)
        with site.clock("tokens over landmarks"):
            return few_keys(q, keys, values, site.scale, bias, pairs).to(q.dtype)
