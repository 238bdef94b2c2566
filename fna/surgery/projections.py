"""The linear layers round an attention, where they are no more than that: what an op may take over (`fna.ops.absorbed`).

None where anything else happens between a block's tokens and its q, k and v, or between its answers and what it gives: norms,
gates, adapters, quantised weights, dropout, and hooks, modes and patches of torch, whose owners want to see what passes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fna.ops.contract import Projections

LINEAR = (nn.Linear, NonDynamicallyQuantizableLinear)
CALLED: tuple[tuple[Any, str], ...] = ((nn.Linear, "forward"), (nn.Module, "__call__"))  # on the way to what a layer does
LOOKING = ("torch.utils.", "fna.")  # where modes come from that change nothing: default devices, counts of operations and memory


def untouched() -> bool:
    """Whether a linear layer is what torch says: nobody has patched its classes or `F.linear`, or sees calls through a mode."""
    own = all(vars(cls)[name].__globals__["__name__"] == cls.__module__ for cls, name in CALLED)
    if not own or F.linear is not torch._C._nn.linear:
        return False
    modes = (*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack())
    return all(type(mode).__module__.startswith(LOOKING) for mode in modes)


def timm_projections(m: Any) -> Projections | None:
    """Those of timm's ``Attention`` and its kin."""
    between = (getattr(m, name, None) for name in ("q_norm", "k_norm", "norm", "gate"))
    more = getattr(m, "q_bias", None) is not None or getattr(m, "num_kv_heads", m.num_heads) != m.num_heads
    more = more or isinstance(m.scale, Tensor)
    if m.training or more or not all(part is None or bare(part, (nn.Identity,)) for part in between):
        return None
    return _projections(m.num_heads, getattr(m, "qkv", None), m.proj)


def multihead_projections(m: nn.MultiheadAttention) -> Projections | None:
    """Those of torch's own."""
    if m.training or not bare(m.out_proj) or m.in_proj_weight is None:
        return None
    return Projections(m.num_heads, m.in_proj_weight, m.in_proj_bias, m.out_proj.weight, m.out_proj.bias)


def _projections(heads: int, inner: Any, outer: Any) -> Projections | None:
    return Projections(heads, inner.weight, inner.bias, outer.weight, outer.bias) if bare(inner) and bare(outer) else None


def bare(module: Any, kinds: tuple[type[nn.Module], ...] = LINEAR) -> bool:
    """Whether this is one of torch's own, linear layers by default, as it is, and nobody listens."""
    if type(module) not in kinds:
        return False
    heard = (module._forward_hooks, module._forward_pre_hooks, nn.modules.module._global_forward_hooks)
    return "forward" not in vars(module) and not any(heard) and not nn.modules.module._global_forward_pre_hooks
