"""ToMe: token merging (Bolya et al. 2023, arXiv 2210.09461; released code CC-BY-NC, of which only the formula is used).

Metric: head-mean keys of this block, by cosine. Patches at even places of the sequence each find the most alike at odd places; the
r most alike pairs become one token, the mean weighted by how many originals each stands for. In later blocks the logarithm of its
size is added to a token's logits as a key. CLS, registers and appended tokens never merge. What is left of the even places then
comes before all odd ones, as in the released code (which leaves them in order of likeness where there is no CLS; here, in theirs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from fna.ops.contract import Tokens
from fna.reduce.joining import joined
from fna.reduce.matching import by_parity, likeness
from fna.surgery.reduce import Place
from fna.values import between


@dataclass(frozen=True)
class ToMe:
    """``r``: how many tokens go in each block. ``proportional``: sizes weigh in later attentions."""

    r: Annotated[int, between(0, 10_000)] = 8
    proportional: bool = True
    version: ClassVar[int] = 1

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        """``x`` ``[B, N, D]`` with the r most alike pairs merged."""
        if not self.r:
            return x, place.tokens
        join = by_parity(likeness(place.keys()), place.tokens, self.r)
        return joined(x, place.tokens, join, self.proportional)
