"""Attention Matching: biases and values of few keys, fitted so that they attend as many did.

"Fast KV Compaction via Attention Matching" (arXiv 2602.16284; code adamzweiger/compaction, MIT), per key head, from reference
queries: weights w = exp(bias) by least squares on the mass of attention, values by least squares on its output. Axes: ``R``
reference queries of a key head (those of all query heads of its group), ``N`` keys, ``m`` of them left.
"""

from __future__ import annotations

import torch
from torch import Tensor

BOUND = 3.0  # a bias is from -3 to 3 around its start, as published
ROUNDS = 2  # of projected gradient, as published
NEVER = -1e4  # a logit that no softmax sees


def masses(logits: Tensor, among: Tensor) -> Tensor:
    """Softmax of logits ``[..., R, N]`` over the entries ``among`` bool ``[..., 1, N]``; zeros where there is none."""
    shares = logits.masked_fill(~among, NEVER).softmax(-1)
    return shares.masked_fill(~among, 0)


def fitted_bias(few: Tensor, mass: Tensor, start: Tensor, rounds: int = ROUNDS) -> Tensor:
    """log w, w minimising ``|few w - mass|^2`` within ``e^(start -+ BOUND)``: ``[..., m]``.

    ``few`` ``[..., R, m]``: what the keys that are left got of the whole attention of each reference; ``mass`` ``[..., R]``: 1, or
    0 where there is no reference. The released code does not divide each row by its mass, so that few references decide; here each
    weighs the same. ``rounds`` of projected gradient, with the exact step along the gradient.
    """
    low, high = (start - BOUND).exp(), (start + BOUND).exp()
    w = start.exp()
    for _ in range(rounds):
        off = (few @ w[..., None])[..., 0] - mass
        gradient = (few.mT @ off[..., None])[..., 0]
        along = (few @ gradient[..., None])[..., 0]
        size = gradient.square().sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True).clamp_min(1e-30)
        w = torch.minimum(torch.maximum(w - size * gradient, low), high)
    return w.log()


def fitted_values(weights: Tensor, target: Tensor, prior: Tensor, ridge: float) -> Tensor:
    """Values x ``[..., m, d]`` near ``prior``: least squares of ``weights x = target``, ``[..., R, m]`` and ``[..., R, d]``.

    ``ridge``: as a share of the mean square of the columns that are not empty. By the smaller of the two Gram matrices, in
    float64: what rounding does to it differs with the size of a batch.
    """
    rows, columns = weights.shape[-2:]
    used = (weights != 0).any(-2).sum(-1, keepdim=True).clamp_min(1)
    like, weights = prior, weights.double()
    off = target.double() - weights @ prior.double()
    wide = rows < columns
    gram = weights @ weights.mT if wide else weights.mT @ weights
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(ridge * diagonal.sum(-1, keepdim=True) / used + 1e-12)
    right = off if wide else weights.mT @ off
    found = torch.cholesky_solve(right, torch.linalg.cholesky_ex(gram)[0])
    return like + (weights.mT @ found if wide else found).to(like.dtype)
