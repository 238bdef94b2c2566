"""Peak memory of a forward pass, by the storages that are alive: a process's resident memory cannot tell."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fna.ops.kernels import cpu


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of tensor storages made while it is on: ``current`` now, ``peak`` at most.

    Views and in-place operations share a storage and cost nothing. Temporaries inside a fused operator are not seen, but for the
    scratch of our own CPU kernels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        if func.namespace == "fna":
            self.peak = max(self.peak, self.current + cpu.scratch_bytes)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        pointer = storage._cdata
        if pointer in self._known:
            return
        size = storage.nbytes()
        self._known[pointer] = size
        weakref.finalize(storage, self._drop, pointer)
        self.current += size
        self.peak = max(self.peak, self.current)

    def _drop(self, pointer: int) -> None:
        self.current -= self._known.pop(pointer, 0)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most memory that ``work`` held at once beyond what was there before, in bytes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with LiveStorages() as storages:
        work()
    return storages.peak
