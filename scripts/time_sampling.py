"""Which way to farthest points is the fastest: the measurement behind `fna.ops.farthest`.

    python scripts/time_sampling.py

Prints, for each shape, the median and the smallest of the turns in milliseconds of processor time on one thread (so that a busy
machine can be measured on); the ways alternate. With more threads the plain op gains only across images, our loops within one too.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("time_sampling")

import statistics
import time
from collections.abc import Callable

import torch
import torch_quickfps

from fna.ops.farthest import _loop, _product_loop

SHAPES = [
    (1, 197, 64),
    (1, 197, 768),
    (1, 577, 128),
    (1, 577, 768),
    (1, 1025, 64),
    (4, 1025, 64),
    (1, 1025, 768),
    (1, 2049, 64),
    (1, 4097, 64),
]
COUNT, TURNS = 64, 15


def ways(x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """Ways to the same landmarks of ``x`` ``[B, N, D]``, the first token kept."""
    return {
        "plain op": lambda: torch_quickfps.sample_idx_baseline(x, COUNT, start_idx=0),
        "tree, h=1": lambda: torch_quickfps.sample_idx(x, COUNT, h=1, start_idx=0),
        "differences": lambda: _loop(x, COUNT, None, None),
        "products": lambda: _product_loop(x, COUNT, None, None),
    }


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    print(f"{COUNT} landmarks, one thread, {TURNS} turns; median (smallest) in ms of processor time")
    for shape in SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        spent: dict[str, list[float]] = {name: [] for name in ways(x)}
        same = {name: float((way() == ways(x)["plain op"]()).float().mean()) for name, way in ways(x).items()}
        for _ in range(TURNS):
            for name, way in ways(x).items():
                start = time.process_time()
                way()
                spent[name].append(1e3 * (time.process_time() - start))
        cells = [f"{name} {statistics.median(t):.2f} ({min(t):.2f})" for name, t in spent.items()]
        print("B{} N{} D{}: ".format(*shape) + ", ".join(cells) + f"; least agreement with the plain op {min(same.values()):.3f}")
