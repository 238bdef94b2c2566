"""Whole-model time of our own methods beside FNA's and exact attention's, in turns: median ratio [second, second-last].

python scripts/time_methods.py [--model vit_tiny_patch16_224] [--size 512] [--batch 4] [--rounds 11]

Random weights and images, since time does not depend on them; drawing, clustering and every correction are inside.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("time_methods")

import argparse
import statistics
import time

import timm
import torch

import fna
from fna.configs import build_attention

CASES = (
    ("fna", 64, "last-half"), ("fna_plus", 64, "last-half"), ("fna", 64, "all"), ("fna_plus", 64, "all"), ("fna_local", 32, "all"),
)  # fmt: skip


def timed(model: torch.nn.Module, images: torch.Tensor) -> float:
    began = time.perf_counter()
    model(images)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=11)
    asked = parser.parse_args()
    model = timm.create_model(asked.model, img_size=asked.size).eval()
    images = torch.randn(asked.batch, 3, asked.size, asked.size)
    ops = {"exact": (build_attention("exact"), "all")}
    ops |= {f"{name} {count} {layers}": (build_attention(name, landmarks=count), layers) for name, count, layers in CASES}
    ratios: dict[str, list[float]] = {}
    with torch.inference_mode():
        for turn in range(asked.rounds + 1):  # the first warms up
            seconds = {}
            for label, (op, layers) in ops.items():
                with fna.swap(model, op, layers=layers):
                    seconds[label] = timed(model, images)
            for label in ops if turn else ():
                ratios.setdefault(label, []).append(seconds[label] / seconds["exact"])
    print(f"{asked.model}, {asked.size} px, batch {asked.batch}, {torch.get_num_threads()} threads; time of exact = 1")
    for label, found in ratios.items():
        found.sort()
        print(f"{label:24} {statistics.median(found):.3f} [{found[1]:.3f}, {found[-2]:.3f}]")
