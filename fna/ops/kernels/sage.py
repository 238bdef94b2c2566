"""SageAttention (Zhang et al. 2024, arXiv 2410.02367) as the kernel of exact attention: q and k in 8 bits, on an NVIDIA GPU.

From the package ``sageattention``, which is not among fna's own. It knows no mask, takes heads of 64, 96 or 128, gives NaN
below 128 tokens (thu-ml/SageAttention issue 19), and 1.0.6 subtracts the keys' mean from the caller's own k: here it is handed
a copy. Never run on a GPU by us; the call is that of 1.0.6 and 2.x.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from fna.ops.contract import BadInput, Site, Unsupported

WIDTHS = (64, 96, 128)
FEWEST = 128  # tokens; below that torch's own kernel serves


def check() -> None:
    """Raise `BadInput` where it cannot run."""
    if not torch.cuda.is_available():
        raise BadInput("kernel=sage: runs on NVIDIA GPUs only, and there is none here; leave it at kernel=torch.")
    if find_spec("sageattention") is None:
        raise BadInput("kernel=sage: needs the package sageattention, which is not installed here; install it, or leave it out.")


def attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """Attention of q ``[B, H, Nq, d]`` over k, v ``[B, H or fewer, Nk, d]``, causal or not; `Unsupported` for other inputs."""
    where = f"kernel=sage (block {site.layer})"
    if not q.is_cuda:
        raise Unsupported(f"{where}: q is on {q.device}; set device=cuda, or kernel=torch.")
    if q.shape[3] not in WIDTHS:
        raise Unsupported(f"{where}: takes heads of 64, 96 or 128, and these are {q.shape[3]} wide; leave it at kernel=torch.")
    from sageattention import sageattn

    mean_free = k - k.mean(2, keepdim=True)  # cancels in the softmax
    q, mean_free, v = (x.contiguous() for x in (q, mean_free, v))
    return sageattn(q, mean_free, v, tensor_layout="HND", is_causal=site.causal, sm_scale=site.scale, smooth_k=False)
