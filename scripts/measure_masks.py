"""What each mask rule costs: a ViT-B-shaped model at 197 tokens, random weights, the variants in turns.

    python scripts/measure_masks.py [--batch 4] [--rounds 9] [--iterated 2]

The baseline has exact attention in the last block; each rule adds its detection (block 6) and its mask (last block). Times are
medians of per-round ratios with bootstrap intervals; operations are counted and do not depend on the machine.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("measure_masks")

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, get_args

import timm
import torch

from fna.masking.rules import RuleName
from fna.masking.strategy import Masking
from fna.ops.exact import Exact
from fna.runner.flops import flops
from fna.runner.turns import in_turns, median_ratio
from fna.surgery.lookahead import swap_masked

LAST = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--iterated", type=int, default=2, help="rounds of the slow, iterated strategies; 0: none")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224").eval()
    images = torch.randn(options.batch, 3, 224, 224)
    cheap = {
        name: Masking(tokens="massive", rule=name, threshold=1e9 if name == "log_gap" else None) for name in get_args(RuleName)
    }
    report(model, images, cheap, options.rounds)
    if options.iterated:
        # Every round finds somebody: the most that a cap can cost.
        slow = {f"sink set, {cap} rounds": Masking(factor=0, least=0, stands=0, cap=cap) for cap in (5, 20)}
        report(model, images, slow, options.iterated)


def report(model: Any, images: torch.Tensor, strategies: dict[str, Masking], rounds: int) -> None:
    """One line a strategy: time and operations against the baseline."""
    swaps = {"baseline": swapper(model, None)} | {name: swapper(model, masking) for name, masking in strategies.items()}
    seconds = in_turns(model, swaps, images, rounds)
    counted = {}
    for name, swap in swaps.items():
        with swap():
            counted[name] = flops(model, images)
    for name in strategies:
        ratio = median_ratio(seconds[name], seconds["baseline"])
        low, high = ratio["ci"]
        more = 100 * (counted[name] / counted["baseline"] - 1)
        time = f"time {100 * (ratio['median'] - 1):+6.1f} % [{100 * (low - 1):+.1f}, {100 * (high - 1):+.1f}]"
        print(f"{name:22s} {time}   operations {more:+7.3f} %", flush=True)


def swapper(model: Any, masking: Masking | None) -> Callable[[], AbstractContextManager[Any]]:
    """The model with exact attention in the last block, masked or not."""
    return lambda: swap_masked(model, {LAST: Exact()}, masking)
