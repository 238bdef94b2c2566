"""Nyström attention with the linear layers round it absorbed into its landmarks: a block's attention from its own input.

With x_p the landmark tokens, and for each head W_q, W_k, W_v ``[d, D]``, W_o ``[D, d]`` and the landmarks' q_p, k_p, the factors of
`fna.ops.nystrom` hold products of the tokens X ``[N, D]`` that can be taken in another order:

    s q_p K^T = X (s W_k^T q_p^T), b_k moving all logits of a landmark alike     u = (softmax(..) X) W_v^T + b_v
    s Q k_p^T = X (s W_q^T k_p^T) + s b_q k_p^T                                  out = softmax(..) (A^+ u W_o^T) + b_o

So q, k and v of the tokens are never made. What is left to do for each is 8 H M D operations, where the layers take 8 H d D and the
attention 8 M H d: with fewer landmarks than a head is wide, less than a block without any attention takes. The landmarks take
12 M D H d once. (DeepSeek-V2, arXiv 2405.04434, absorbs projections into a latent in this way.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch.nn.functional as F
from torch import Tensor

from fna.ops.contract import Projections, autocasts
from fna.ops.kernels import cpu_absorbed, paths


def absorbs(x: Tensor, marks: int, around: Projections) -> bool:
    """Whether so many landmarks of tokens ``x`` ``[B, N, D]`` are to absorb the layers: our kernels can, and less is to be done.

    ``FNA_CPU_PATH=absorbed`` takes what can be taken, any other value nothing.
    """
    if not _wanted.get() or x.device.type != "cpu" or autocasts(x) or not _fit(x, around):
        return False
    if (pinned := paths.pinned()) not in (None, "absorbed") or not cpu_absorbed.serves(x, marks, *around.tensors):
        return False
    return pinned is not None or absorbed_flops(x.shape[1], marks, around) < plain_flops(x.shape[1], marks, around)


def _fit(x: Tensor, around: Projections) -> bool:
    """Whether the layers are of the shapes that the kernel reads: any other is for torch to broadcast, or to refuse."""
    depth, width = x.shape[-1], around.outer.shape[-1]
    shapes = (3 * width, depth), (3 * width,), (depth, width), (depth,)
    sized = all(part is None or part.shape == shape for part, shape in zip(around.tensors, shapes, strict=True))
    return x.dim() == 3 and width % around.heads == 0 and sized


@contextmanager
def apart() -> Iterator[None]:
    """Attention and the layers round it one after the other, for measuring the attention alone; in this thread or task only."""
    before = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(before)


_wanted: ContextVar[bool] = ContextVar("absorbing is wanted", default=True)
taken: set[str] = set()  # what this process absorbed: heads x tokens x landmarks of a width


def absorbed_flops(tokens: int, marks: int, around: Projections) -> int:
    """Operations of one image, but for the inverse, which is the same in both."""
    depth, width = around.outer.shape
    return (8 * tokens * around.heads + 12 * width) * marks * depth


def plain_flops(tokens: int, marks: int, around: Projections) -> int:
    """Likewise, of the layers and the attention one after the other."""
    depth, width = around.outer.shape
    return 8 * tokens * width * (depth + marks)


def mean_queries(x: Tensor, around: Projections) -> Tensor:
    """The mean over heads of the queries of ``x`` ``[B, N, D]``, by the mean of the layers, as one head: ``[B, 1, N, d]``."""
    weight = around.inner.unflatten(0, (3, around.heads, -1))[0].mean(0)
    bias = None if around.inner_bias is None else around.inner_bias.unflatten(0, (3, around.heads, -1))[0].mean(0)
    return F.linear(x, weight, bias)[:, None]


def absorbed_nystrom(x: Tensor, index: Tensor, around: Projections, *, scale: float, steps: int, ridge: float) -> Tensor:
    """Tokens ``x`` ``[B, N, D]`` through their landmarks ``index`` int64 ``[B, M]``: ``[B, N, D]``, by our kernel.

    The inverse by ``steps`` of Newton's; where that is 0, by ``ridge`` (`fna.ops.inverse.apply_inverse`). To rounding what
    `fna.ops.nystrom.fast_nystrom` gives between the layers.
    """
    taken.add(f"{around.heads} x {x.shape[1]} x {index.shape[1]} of {x.shape[2]}")
    return cpu_absorbed.absorbed(
        x, index, around.inner, around.inner_bias, around.outer, around.outer_bias, around.heads, scale, steps, ridge
    )
