"""Fused versions: `gpu` in Triton, `cpu` in C++, both compiled on first use. The plain versions serve everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

STEPS = 6  # of the inverse in the fused versions


def for_onnx() -> bool:
    """Whether this call is being written down as ONNX, which knows none of our operators."""
    recorded = torch.compiler.is_exporting() or torch.jit.is_tracing()  # first, since the other question takes 10 us
    return recorded and torch.onnx.is_in_onnx_export()


def differentiated(*tensors: Tensor) -> bool:
    """Whether a derivative through one of these may be asked for, backward or forward; the kernels have none."""
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def unpatched(*modules: dict[str, Any]) -> Callable[[], bool]:
    """What tells whether the functions in these modules' names are still those of now: a kernel does in one what they say, and
    whoever puts one of their own in the place of one wants that to run."""
    own = [(names, name, value) for names in modules for name, value in names.items() if isinstance(value, FunctionType)]
    return lambda: all(names.get(name) is value for names, name, value in own)
