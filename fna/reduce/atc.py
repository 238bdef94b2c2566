"""ATC: agglomerative token clustering (Haurum et al. 2024, ECCV, arXiv 2409.11923; code MIT).

In three blocks the patches are clustered bottom up by 1 - cosine of their head-mean keys until ceil(keep P) clusters are left; a
cluster becomes its size-weighted mean, and sizes weigh in later attentions. Clusters are made on the CPU, image by image, by SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from fna.ops.contract import Tokens, not_traced
from fna.reduce.joining import Joining, joined, joining, kept_of, patches
from fna.reduce.matching import likeness
from fna.reduce.stages import at_stage
from fna.surgery.reduce import Place
from fna.values import within


@dataclass(frozen=True)
class ATC:
    """``keep``: share of the patches that is left at each of three stages. ``linkage``: which distances of clusters count."""

    keep: Annotated[float, within(0, 1)] = 0.7
    linkage: Literal["single", "complete", "average"] = "average"
    proportional: bool = True
    version: ClassVar[int] = 1

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        """``x`` ``[B, N, D]`` with clusters of patches merged."""
        first, last = patches(place.tokens, x.shape[1])
        stay = kept_of(self.keep, last - first)
        if not at_stage(place) or stay >= last - first:
            return x, place.tokens
        not_traced("reduce=ATC: which tokens merge", x)
        metric = likeness(place.keys()[:, first:last])
        leaders = [clusters(one, stay, self.linkage) for one in metric.detach().double().cpu().numpy()]
        found = torch.from_numpy(np.array(leaders, np.int64).reshape(metric.shape[:2])).to(x.device)
        return joined(x, place.tokens, _led(found, stay, first, x.shape[1]), self.proportional)


def clusters(metric: np.ndarray, count: int, how: str) -> np.ndarray:
    """int64 ``[P]``: the first token of each token's cluster, ``count`` clusters of keys ``[P, d]`` of length 1."""
    apart = 1 - metric @ metric.T
    np.fill_diagonal(apart, 0)
    tree = linkage(squareform((apart + apart.T) / 2, checks=False), how)
    size = len(metric)
    members = {number: [number] for number in range(size)}
    for step, (a, b) in enumerate(tree[: size - count, :2].astype(int)):
        members[size + step] = members.pop(a) + members.pop(b)
    leaders = np.empty(size, np.int64)
    for group in members.values():
        leaders[group] = min(group)
    return leaders


def _led(leaders: Tensor, stay: int, first: int, count: int) -> Joining:
    """Every patch goes into the first of its cluster; ``leaders`` ``[B, P]``, of which ``stay`` are."""
    leads = leaders == torch.arange(leaders.shape[1], device=leaders.device)
    gone = leads.byte().argsort(dim=1, stable=True)[:, : leaders.shape[1] - stay]
    return joining(first + gone, first + leaders.gather(1, gone), count)
