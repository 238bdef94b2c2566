"""Random numbers that depend on what they are for and on nothing else: the same for every image, batch size and device."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack


def uniform(shape: tuple[int, ...], *key: object) -> Tensor:
    """Numbers in 0..1, float64 on the CPU, by ``key`` alone."""
    return _drawn(torch.rand, shape, key)


def normal(shape: tuple[int, ...], *key: object) -> Tensor:
    """Standard normal numbers, float64 on the CPU, by ``key`` alone."""
    return _drawn(torch.randn, shape, key)


def _drawn(kind: Callable[..., Tensor], shape: tuple[int, ...], key: tuple[object, ...]) -> Tensor:
    seed = zlib.crc32(repr(key).encode())

    def draw() -> Tensor:
        return kind(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    if torch.jit.is_tracing() or torch.compiler.is_exporting() or _transformed():
        # On a thread of its own, where nobody records: the numbers become a constant of the graph, not a new draw a call; and
        # where no torch.vmap takes them for a draw of each image's own.
        with ThreadPoolExecutor(1) as aside:
            return torch.tensor(aside.submit(lambda: draw().tolist()).result(), dtype=torch.float64)
    return draw()


def _transformed() -> bool:
    """Whether torch.vmap or torch.func.grad is at work on this thread."""
    return not torch.compiler.is_compiling() and peek_interpreter_stack() is not None
