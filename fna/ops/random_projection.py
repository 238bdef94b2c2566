"""Keys and values mixed at random into a few: Linformer (Wang et al. 2020, arXiv 2006.04768, equation 7), never trained.

    out = softmax(s Q (E K)ᵀ) (E V)        E [M, N], entries normal with variance 1 / M, one for keys and values

Linformer learns E, so this has no meaning of its own: a floor that any method has to be above. Prefix tokens are mixed like others.
Time O(N M d) a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.ops.contract import Site, refuse, whole
from fna.ops.drawing import check_landmarks, count_landmarks
from fna.ops.inverse import full_precision
from fna.ops.seeded import normal
from fna.ops.short import few_keys
from fna.values import Count, between


@dataclass(frozen=True)
class RandomProjection:
    """Attention over ``landmarks`` random mixtures. Honours ``keys``; refuses ``key_bias``: a mixture has no number of copies."""

    landmarks: Count | float = 64
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q ``[B, H, Nq, d]``, k and v ``[B, H, Nk, d]`` to ``[B, H, Nq, d]`` in q's dtype."""
        refuse(self, site, "key_bias", "causal", "dense")
        tokens = whole(k.shape[2])
        count = count_landmarks(self.landmarks, tokens)
        with site.clock("sampling"):
            mix = normal((count, tokens), "random_projection", self.seed, site.layer, tokens, count) / count**0.5
        with site.clock("projection"), full_precision(q):
            wide = torch.promote_types(k.dtype, torch.float32)
            mix = mix.to(k.device, wide)[None, None]
            mix = mix if site.keys is None else mix * site.keys[:, None, None]
            keys, values = ((mix @ x.to(wide)).to(x.dtype) for x in (k, v))
        with site.clock("tokens over landmarks"):
            return few_keys(q, keys, values, site.scale, None).to(q.dtype)
