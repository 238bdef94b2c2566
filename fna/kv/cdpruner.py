"""CDPruner (arXiv:2506.10967, NeurIPS 2025): image tokens by a determinantal point process conditioned on the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fna.kv.image_tokens import Choice, ImageTokens, Picture, cosines

EPS = 1e-6  # under a square root, and the least relevance: a token of none could never be chosen, nor make room for another


@dataclass(frozen=True)
class CDPruner(ImageTokens):
    """Greedy maximum of det L over sets of tokens, L = diag(r) S diag(r): S cosines of what enters the decoder, r relevance.

    Relevance is the mean cosine of a token with the embeddings of the text behind the image, scaled to 0..1: the form that the
    paper has for models without a CLIP text tower, since a LLaVA carries none. Quirks of the released code that were not kept: it
    negates that cosine, takes least and largest over the whole batch, and has the relevance's weight commented out.
    """

    version: ClassVar[int] = 1

    def choose(self, picture: Picture, count: int) -> Choice:
        """``count`` tokens, the most probable set found greedily."""
        relevance = (
            cosines(picture.hidden, picture.text).mean(1) if len(picture.text) else picture.hidden.new_ones(picture.count).float()
        )
        low, high = relevance.min(), relevance.max()
        relevance = (
            ((relevance - low) / (high - low).clamp_min(EPS)).clamp_min(EPS) if bool(high > low) else torch.ones_like(relevance)
        )
        kernel = relevance[:, None] * cosines(picture.hidden, picture.hidden) * relevance
        return Choice(greedy(kernel, count).sort().values)


def greedy(kernel: Tensor, count: int) -> Tensor:
    """Indices ``[count]`` in the order chosen: each adds most to the log-determinant of ``kernel`` ``[V, V]`` on the chosen ones
    (Chen et al. 2018, the Cholesky factor grown row by row)."""
    gain = kernel.diagonal().clone()
    rows = kernel.new_zeros(count, len(kernel))
    chosen: list[Tensor] = []
    for step in range(count):
        pick = gain.argmax()
        row = (kernel[pick] - rows[:step, pick] @ rows[:step]) / gain[pick].clamp_min(EPS**2).sqrt()
        rows[step] = row
        gain = gain - row.square()
        chosen.append(pick)
        gain[torch.stack(chosen)] = float("-inf")
    return torch.stack(chosen)
