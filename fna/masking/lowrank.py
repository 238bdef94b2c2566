"""How low the rank of attention is: every head's softmax matrix cut into pieces, each piece replaced by its best of rank r.

An instrument, not a method: it makes the N x N matrix. After FNA's authors' experiment (facts §1.4), from block 12 of ViT-L on:
pieces by category (CLS, massive, artifact, normal) lose less than {CLS, patches} up to rank 5, and from 8 on neither loses much.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fna.masking.masked import Found
from fna.masking.sinks import categories
from fna.ops.contract import Site, not_traced, refuse, same_tokens
from fna.ops.inverse import full_precision
from fna.ops.rows import attention_rows
from fna.values import Count


@dataclass(frozen=True)
class LowRank:
    """Attention of rank ``rank`` in every block of the matrix; ``partition``: pieces by category instead of {CLS, patches}.

    ``partition`` needs tokens that were found (mask=found). Honours ``keys`` and ``key_bias``; the row of a token that may not be
    seen belongs to no piece and stays what it is.
    """

    rank: Count = 4
    partition: bool = False
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.rank < 1 or self.rank != int(self.rank):
            raise ValueError(f"rank={self.rank}: give a whole number of at least 1.")

    def facts(self) -> dict[str, str]:
        """What a result says of it."""
        return {"pieces": "by category" if self.partition else "CLS and patches"}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` -> ``[B, H, N, d]``."""
        refuse(self, site, "causal", "dense")
        same_tokens(self, q, k, site)
        if self.rank >= q.shape[2]:
            warnings.warn(f"rank={self.rank} is no less than the {q.shape[2]} tokens there are: nothing is cut.", stacklevel=2)
        count, wide = q.shape[2], torch.promote_types(q.dtype, torch.float32)
        with full_precision(q):
            every = torch.arange(count, device=q.device).expand(q.shape[0], -1)
            weights = attention_rows(q.to(wide), k.to(wide), site, every)
            whole = weights
            if site.keys is not None:  # nor do the rows of unseen tokens shape the singular vectors
                weights = weights.masked_fill(~site.keys[:, None, :, None], 0.0)
        nothing = torch.zeros(q.shape[0], count, dtype=torch.bool, device=q.device)
        massive = Found("massive")(q, k, site) if self.partition else nothing
        sinks = Found("both")(q, k, site) if self.partition else nothing
        kind = categories(massive, sinks, site.tokens)
        not_traced("where low_rank cuts the matrix", kind)
        with full_precision(q), one_thread():
            images = [cut_rank(image, kinds, int(self.rank)) for image, kinds in zip(weights, kind, strict=True)]
            cut = torch.stack(images) if images else weights
            if site.keys is not None:
                cut = torch.where(site.keys[:, None, :, None], cut, whole)
                cut = cut.masked_fill(~site.keys[:, None, None], 0.0)  # zero columns come back from an SVD as rounding
            return (cut @ v.to(cut.dtype)).to(q.dtype)


def cut_rank(weights: Tensor, kind: Tensor, rank: int) -> Tensor:
    """``[H, N, N]`` with the piece of every pair of categories replaced by its best of that rank; ``kind`` ``[N]``."""
    out = weights.clone()
    groups = [(kind == number).nonzero()[:, 0] for number in kind.unique()]
    for rows in groups:
        for columns in groups:
            if min(len(rows), len(columns)) > rank:
                piece = weights[:, rows[:, None], columns]
                u, s, vh = torch.linalg.svd(piece, full_matrices=False)
                out[:, rows[:, None], columns] = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
    return out


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the CPU's share of the work inside.

    The SVD of MKL opens a parallel region for every few columns of every matrix. Between them the other threads spin, and where
    another process has a core each region waits for the one that is not running: most of the time of a ``task=tokens`` run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
