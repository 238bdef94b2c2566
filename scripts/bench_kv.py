"""What one step of decoding costs behind a long prompt, stock beside compressed caches, in turns.

    python scripts/bench_kv.py --prompt 8000 --rounds 15 --threads 2

A random-weight Llama of 7B's shape cut to 4 layers. The cache is filled with random entries (a step costs the same whatever they
are), so the prompt itself is not run. Contenders: transformers' DynamicCache; our layer with everything in it; A-VL at rate 0.5,
compute_rate 0.6, update_interval 3; a quarter of the image with a bias, which is FNA's; the same without one.
``--bias`` times the two ways in which a bias can reach a fused kernel: a float mask, or channels of q and k (FlashBias).
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("bench_kv")

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from fna.kv.avl import AVL
from fna.kv.contract import Kept, LayerState, Prompt
from fna.kv.random_kv import RandomKV
from fna.kv.select import take
from fna.runner.turns import median_ratio
from fna.surgery.cache_layer import KeptCache
from fna.surgery.session import Session

TEXT = 64  # columns at the end of the prompt that are no image
STEPS = 3  # of each contender in a round: one whole interval of A-VL's


class Quarter:
    """Random image entries with the bias that FNA gives its landmarks."""

    version = 1

    def __init__(self, biased: bool) -> None:
        self.biased = biased

    def keep(self, state: LayerState) -> Kept:
        kept = RandomKV(0.25).keep(state)
        bias = torch.full(kept.positions.shape, float(np.log(4)))
        return Kept(kept.k, kept.v, kept.positions, kept.valid, bias if self.biased else None)


class Everything:
    version = 1

    def keep(self, state: LayerState) -> Kept:
        return take(state.entries, state.valid)


def conversation(net: Any, policy: Any, entries: list[tuple[Tensor, Tensor]]) -> tuple[Any, Session | None]:
    """A cache behind a prompt of these random entries, ``[1, G, N, d]`` a layer, and the session that serves it."""
    if policy is None:
        stock = DynamicCache(config=net.config)
        for layer, (k, v) in enumerate(entries):
            stock.update(k, v, layer)
        return stock, None
    length = entries[0][0].shape[2]
    place = torch.arange(length)[None]
    prompt = Prompt(place < length - TEXT, torch.ones_like(place, dtype=torch.bool))
    cache = KeptCache(len(entries))
    session = Session(policy, frozenset(range(len(entries))), cache, prompt, net.config._attn_implementation)
    for number, (kept_layer, (k, v)) in enumerate(zip(cache.kept, entries, strict=True)):
        q = torch.randn(1, net.config.num_attention_heads, 1, k.shape[-1], dtype=k.dtype)
        whole = Kept(k, v, place[:, None].expand(-1, k.shape[1], -1))
        kept_layer.seen, kept_layer.complete = length, True
        scale, memo = k.shape[-1] ** -0.5, kept_layer.memo
        kept_layer.put(policy.keep(LayerState(q, place[:, -1:], whole, prompt, number, len(entries), scale, 0, memo)))
    return cache, session


def stepped(net: Any, cache: Any, session: Session | None) -> float:
    """Seconds of a step, mean over `STEPS`."""
    with ExitStack() as undo, torch.inference_mode():
        if session is not None:
            session.install(net.model, undo)
        start = time.perf_counter()
        for _ in range(STEPS):
            net(torch.ones(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
        return (time.perf_counter() - start) / STEPS


def steps(asked: argparse.Namespace) -> None:
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=4, num_attention_heads=32, num_key_value_heads=asked.groups,
        vocab_size=1000, max_position_embeddings=2 * asked.prompt, dtype=asked.dtype,
    )  # fmt: skip
    with torch.device("meta"):
        net: Any = LlamaForCausalLM(config)
    net = net.to(getattr(torch, asked.dtype)).to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        weight.copy_(torch.empty_like(weight).normal_(0, 0.02, generator=generator))
    net.model.rotary_emb = type(net.model.rotary_emb)(config=config)  # its tables are no parameters
    contenders: dict[str, Any] = {
        "stock": None, "our layer, all kept": Everything(), "avl": AVL(rate=0.5, compute_rate=0.6, update_interval=3),
        "quarter with bias (fna)": Quarter(True), "quarter without": Quarter(False),
    }  # fmt: skip
    shape = (1, asked.groups, asked.prompt, 128)
    kind = getattr(torch, asked.dtype)
    entries = [
        (torch.randn(shape, generator=generator).to(kind), torch.randn(shape, generator=generator).to(kind)) for _ in range(4)
    ]
    held = {name: conversation(net, policy, entries) for name, policy in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in held}
    names = list(held)
    for turn in range(2 + asked.rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            took = stepped(net, *held[name])
            if turn >= 2:
                seconds[name].append(took)
    print(f"prompt {asked.prompt}, {asked.dtype}, {asked.groups} key heads, {asked.threads} threads, {asked.rounds} rounds\n")
    print("| cache | ms a step | times as fast as stock, 95 % |\n|---|---|---|")
    stock = np.array(seconds["stock"])
    for name, values in seconds.items():
        ratio = median_ratio(stock, np.array(values))
        low, high = ratio["ci"]
        print(f"| {name} | {1e3 * np.median(values):.1f} | {ratio['median']:.2f} [{low:.2f}, {high:.2f}] |")


def biases(asked: argparse.Namespace) -> None:
    """One query over n entries: no bias, a float mask, or 8 more channels of q, k and v, of which one holds the bias."""
    kind = getattr(torch, asked.dtype)
    for groups in (32, 8):
        for count in (576, 2000, 8000):
            q = torch.randn(1, groups, 32 // groups, 128, dtype=kind)
            k, v = torch.randn(2, 1, groups, count, 128, dtype=kind)
            bias = torch.randn(1, groups, count)
            mask = bias[:, :, None].to(kind)
            wide_q = F.pad(q * 128**-0.5, (0, 8))
            wide_q[..., 128] = 1
            wide_k, wide_v = F.pad(k, (0, 8)), F.pad(v, (0, 8))
            wide_k[..., 128] = bias.to(kind)
            calls: dict[str, Callable[[], Tensor]] = {
                "none": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),  # type: ignore[misc]
                "mask": lambda q=q, k=k, v=v, m=mask: F.scaled_dot_product_attention(q, k, v, attn_mask=m),  # type: ignore[misc]
                "channel": lambda q=wide_q, k=wide_k, v=wide_v: F.scaled_dot_product_attention(q, k, v, scale=1.0),  # type: ignore[misc]
            }
            near = (calls["mask"]() - calls["channel"]()[..., :128]).abs().max()
            took: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(asked.rounds):
                for name, call in calls.items():
                    start = time.perf_counter()
                    call()
                    took[name].append(time.perf_counter() - start)
            told = ", ".join(f"{name} {1e3 * np.median(values):.2f} ms" for name, values in took.items())
            print(f"{groups} key heads, {count} entries: {told} (largest difference {float(near):.1e})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--groups", type=int, default=32, help="key heads of 32; Llama-7B has as many, Mistral 8")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--bias", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    (biases if given.bias else steps)(given)
