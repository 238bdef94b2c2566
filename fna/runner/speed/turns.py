"""Timing in turns: the contenders alternate on inputs that rotate past the cache; device events on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from fna.runner.clocks import synchronize

Work = Callable[[int], object]  # is handed the turn's number, by which it picks its input
CACHE_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}
MAX_COPIES = 8


def copies(bytes_each: int, device: torch.device) -> int:
    """How many input sets are needed for one to be out of the cache when its turn comes again."""
    return int(np.clip(-(-CACHE_BYTES.get(device.type, 64 << 20) // max(bytes_each, 1)), 2, MAX_COPIES))


def in_turns(work: Mapping[str, Work], rounds: int, device: torch.device, warm_up: int = 3) -> dict[str, np.ndarray]:
    """Seconds ``[rounds]`` of every contender; who goes first moves on by one each round."""
    names = list(work)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        for turn in range(warm_up + rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                took = timed(partial(work[name], turn), device)
                if turn >= warm_up:
                    seconds[name].append(took)
    return {name: np.array(values) for name, values in seconds.items()}


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: between two events on a GPU (launching included only where the device waits for it)."""
    if device.type == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        synchronize(device)
        first.record()
        call()
        last.record()
        synchronize(device)
        return first.elapsed_time(last) / 1e3
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """``call`` as a CUDA graph: its kernels without the host between them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
