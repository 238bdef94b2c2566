"""Keys and values average-pooled on the grid, every query kept: ToDo (Smith et al. 2024, arXiv 2402.13573).

    out = softmax(s Q pool(K)ᵀ) pool(V)

ToDo shrinks keys and values by a whole factor with the nearest token; here by the windows of adaptive average pooling, so that any
count can be asked. Prefix and suffix tokens are no patches and stay exact. A cell weighs as much as one token, as published;
``sizes`` makes it weigh as much as it has tokens. Time O(N M d) a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fna.ops.contract import Site, refuse
from fna.ops.drawing import check_landmarks
from fna.ops.grid import pooling
from fna.ops.nystrom import additive
from fna.ops.short import few_keys
from fna.values import Count


@dataclass(frozen=True)
class PooledKeys:
    """Attention over at most ``landmarks`` pooled keys (a count, or a fraction of the tokens below 1).

    ``key_bias`` b counts as exp(b) copies of a token, in the means and in a cell's weight. Honours ``keys`` too.
    """

    landmarks: Count | float = 64
    sizes: bool = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q ``[B, H, Nq, d]``, k and v ``[B, H, Nk, d]`` to ``[B, H, Nq, d]`` in q's dtype."""
        refuse(self, site, "causal", "dense")
        with site.clock("pooling"):
            bias = additive(site.keys, site.key_bias)
            pool = pooling(self, k, site, None if bias is None else bias.exp())
            few = pool.masses(k).log() if self.sizes else pool.bias()
            keys, values = pool(k), pool(v)
        with site.clock("tokens over landmarks"):
            return few_keys(q, keys, values, site.scale, few).to(q.dtype)
