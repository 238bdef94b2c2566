"""What FNA saves in SAM's encoder: ViT-B at 1,024 px, random weights, its global blocks changed, relative positions honoured.

    python scripts/measure_sam.py [--landmarks 64] [--rounds 7] [--pixels 1024] [--out FILE]

Times of the operation in turns: fused attention with the bias of N x N made as timm makes it, the same with the bias at hand, exact
attention through our seam, FNA with its sampling and without. Then one pass of the whole encoder, stock and changed, its time and
the most memory it holds at once (by live tensor storages, `fna.runner.memory`).
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("measure_sam")

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fna
from fna.ops.bias import Decomposed, PairBias
from fna.ops.contract import Attention, Site, Tokens
from fna.ops.exact import Exact
from fna.ops.nystrom import FastNystrom
from fna.runner.memory import peak_bytes
from fna.surgery.blocks import find_tower

CPU = torch.device("cpu")
HEADS, WIDTH = 12, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--landmarks", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {"threads": torch.get_num_threads(), "pixels": options.pixels, "landmarks": options.landmarks}
    with torch.inference_mode():
        found |= operation(options.pixels // 16, options.landmarks, options.rounds)
        found |= encoder(options.pixels, options.landmarks, max(1, options.rounds // 3))
    text = json.dumps(found, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


def operation(side: int, landmarks: int, rounds: int) -> dict[str, Any]:
    """Milliseconds and bytes of one call on ``[1, 12, side^2, 64]``."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, side * side, WIDTH, generator=generator) for _ in range(3))
    tables = [torch.randn(2 * side - 1, WIDTH, generator=generator) * 0.1 for _ in range(2)]
    where = torch.arange(side)[:, None] - torch.arange(side) + side - 1
    scale, tokens = WIDTH**-0.5, Tokens(prefix=0, grid=(side, side))

    def terms() -> tuple[Tensor, Tensor]:
        grid = q.unflatten(2, (side, side))
        down, across = grid @ tables[0][where].mT, (grid.transpose(2, 3) @ tables[1][where].mT).transpose(2, 3)
        return down.flatten(2, 3), across.flatten(2, 3)

    def whole() -> Tensor:
        down, across = terms()
        return (down[..., None] + across[..., None, :]).flatten(-2)

    def ours(op: Attention, memo: dict[Any, Any] | None = None) -> Tensor:
        bias: PairBias = Decomposed(*terms())
        return op(q, k, v, Site(scale=scale, dense=bias, tokens=tokens, memo={} if memo is None else memo))

    bias, drawn, op = whole(), dict[Any, Any](), FastNystrom(landmarks=landmarks)
    ours(op, drawn)
    ways: dict[str, Callable[[], Tensor]] = {
        "fused, bias made": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=whole()),
        "fused, bias at hand": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
        "exact": lambda: ours(Exact()),
        "fna, landmarks drawn": lambda: ours(op),
        "fna, landmarks shared": lambda: ours(op, dict(drawn)),
    }
    times = in_turns(ways, rounds)
    least = [a / b for a, b in zip(times["fused, bias at hand"], times["fna, landmarks drawn"], strict=True)]
    memory = {name: peak_bytes(way, CPU) for name, way in ways.items()}
    return {
        "operation_ms": {name: round(1e3 * statistics.median(each), 1) for name, each in times.items()},
        "operation_times_faster": round(statistics.median(least), 2),
        "operation_bytes": memory,
    }


def encoder(pixels: int, landmarks: int, rounds: int) -> dict[str, Any]:
    """Seconds and bytes of a pass through the encoder, stock and with its global blocks changed."""
    torch.manual_seed(0)
    net: nn.Module = timm.create_model("samvit_base_patch16", img_size=pixels).eval()
    image = torch.randn(1, 3, pixels, pixels)

    def changed() -> Tensor:
        with fna.swap(net, "fna", layers="all", landmarks=landmarks):
            return net(image)

    ways: dict[str, Callable[[], Tensor]] = {"stock": lambda: net(image), "fna": changed}
    times = in_turns(ways, rounds)
    memory = {name: peak_bytes(way, CPU) for name, way in ways.items()}
    return {
        "blocks": find_tower(net).windows(),
        "encoder_s": {name: round(statistics.median(each), 2) for name, each in times.items()},
        "encoder_bytes": memory,
        "encoder_memory_share": round(memory["fna"] / memory["stock"], 3),
    }


def in_turns(ways: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:
                times[name].append(time.perf_counter() - start)
    return times
