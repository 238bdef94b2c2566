"""Throughput of a token reducer in a ViT-B at 384 px (577 tokens) of timm, open_clip and Hugging Face, timed in turns:

python scripts/bench_reducers.py                         # ToMe, r = 16; exit status 1 where it gains less than --least
python scripts/bench_reducers.py --reduce pitome --only timm --size 512

Beside it the stock model, exact attention through fna's seam, and the same reducer over unfused attention, which is what the
released ToMe patch computes: softmax(q k^T + log sizes) v with the N x N weights in memory. The gain is over the faster of the
first two.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("bench_reducers")

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from fna.configs import instantiate, load_option
from fna.ops.contract import Site
from fna.runner.turns import in_turns, median_ratio
from fna.surgery.variant import FULL, Variant, exact

WIDTH, DEPTH, HEADS, PATCH = 768, 12, 12, 16


@dataclass(frozen=True)
class Unfused:
    """Softmax attention with its weights in memory."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]``."""
        logits = (q * site.scale) @ k.transpose(-1, -2)
        if site.key_bias is not None:
            logits = logits + site.key_bias[:, None, None].to(logits.dtype)
        return logits.softmax(-1) @ v


def of_timm(size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    import timm

    net = timm.create_model("vit_base_patch16_384", img_size=size, num_classes=1000)
    return net, net


def of_open_clip(size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from open_clip.model import CLIP

    vision = {"image_size": size, "patch_size": PATCH, "width": WIDTH, "layers": DEPTH, "head_width": WIDTH // HEADS}
    text = {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 2, "layers": 1}
    net = CLIP(512, vision, text)
    return net, net.encode_image


def of_transformers(size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    shape: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    shape |= {"intermediate_size": 4 * WIDTH, "image_size": size, "patch_size": PATCH}
    net = CLIPVisionModel(CLIPVisionConfig(**shape))
    return net, lambda images: net(pixel_values=images).pooler_output


LIBRARIES = {"timm": of_timm, "open_clip": of_open_clip, "transformers": of_transformers}


def measure(library: str, options: argparse.Namespace) -> float:
    """Prints a line for each variant; returns the gain."""
    torch.manual_seed(0)
    net, forward = LIBRARIES[library](options.size)
    net.eval().requires_grad_(False).to(options.device)
    images = torch.randn(options.batch, 3, options.size, options.size, device=options.device)
    node = OmegaConf.merge(load_option("reduce", options.reduce), OmegaConf.from_dotlist(options.set))
    reducer, blocks = instantiate(node), range(DEPTH)
    variants = {
        "stock": FULL,
        "exact": exact(tuple(blocks)),
        options.reduce: Variant("", exact(tuple(blocks)).ops, reduce=reducer),
        "unfused": Variant("", dict.fromkeys(blocks, Unfused()), reduce=reducer),
    }
    seconds = in_turns(forward, {name: partial(one.on, net) for name, one in variants.items()}, images, options.rounds)
    medians = {name: float(torch.tensor(values).median()) for name, values in seconds.items()}
    faster = min(("stock", "exact"), key=medians.__getitem__)
    for name, values in seconds.items():
        ratio = median_ratio(seconds[faster], values)
        low, high = ratio["ci"]
        rate = options.batch / medians[name]
        print(f"{library:13} {name:13} {rate:7.2f} images/s  {ratio['median']:.2f} [{low:.2f}, {high:.2f}] of {faster}", flush=True)
    return float(median_ratio(seconds[faster], seconds[options.reduce])["median"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduce", default="tome")
    parser.add_argument("--set", nargs="*", default=[], help="keys of the reducer: r=16")
    parser.add_argument("--only", nargs="*", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--least", type=float, default=1.25)
    options = parser.parse_args()
    if options.reduce == "tome" and not options.set:
        options.set = ["r=16"]
    gains = {library: measure(library, options) for library in options.only}
    slow = [f"{library} {gain:.2f}" for library, gain in gains.items() if gain < options.least]
    print(f"below {options.least}: {', '.join(slow)}" if slow else f"all at least {options.least}")
    return 1 if slow else 0
