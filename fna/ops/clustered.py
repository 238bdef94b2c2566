"""Keys and values as means of clusters, each cluster weighing as much as it has tokens.

    out = softmax(s Q k̄ᵀ + log n) v̄        k̄, v̄, n: means and sizes of the clusters of a head's keys

The key-side twin of clustered attention (Vyas et al. 2020, arXiv 2007.04825, section 3.2, which clusters queries), with token
merging's proportional attention (Bolya et al. 2022, arXiv 2210.09461, equation 1) as its weights. Clusters are a head's and a
block's own, as there; its Hamming-distance k-means on sign hashes is a Euclidean one from a farthest-point start here. Prefix
tokens are clusters of their own. Time O(N M d) a head, Lloyd steps included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from torch import Tensor

from fna.ops.centroids import Centroids, KMeans, group_means, logarithm
from fna.ops.contract import Site, refuse, same_tokens
from fna.ops.drawing import check_landmarks, draw
from fna.ops.inverse import full_precision
from fna.ops.nystrom import additive
from fna.ops.short import few_keys
from fna.values import Count, between


@dataclass(frozen=True)
class Clustered:
    """Attention over ``landmarks`` cluster means (a count, or a fraction of the tokens below 1), ``lloyd`` steps of k-means.

    ``key_bias`` b counts as exp(b) copies of a token, in the means and in the cluster's weight. Honours ``keys`` too.
    """

    landmarks: Count | float = 64
    lloyd: Annotated[int, between(0, 1_000)] = 3
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal", "dense")
        same_tokens(self, q, k, site)
        bias = additive(site.keys, site.key_bias)
        shape, heads = q.shape, q.shape[1]
        q, k, v = (x.flatten(0, 1)[:, None] for x in (q, k, v))  # a head is an image of its own
        own_bias = None if bias is None else bias.repeat_interleave(heads, 0)
        with full_precision(q):
            groups = self._clusters(q, k, v, site, heads)
            with site.clock("gather"):
                (keys, values), mass = group_means(groups, own_bias, k, v)
        with site.clock("tokens over landmarks"):
            return few_keys(q, keys, values, site.scale, logarithm(mass, mass > 0)).to(q.dtype).view(shape)

    def _clusters(self, q: Tensor, k: Tensor, v: Tensor, site: Site, heads: int) -> Centroids:
        keys = None if site.keys is None else site.keys.repeat_interleave(heads, 0)
        own = replace(site, keys=keys, key_bias=None, hidden=None, memo={})
        return draw(KMeans("k", self.lloyd), q, k, v, own, self.landmarks, 0)
