#!/usr/bin/env bash
# torch 2.15.0 on a CPU: scaled_dot_product_attention leaves its fused kernel, without a word, as soon as values are narrower than queries and keys.
#
# Expected: a head whose values have 64 numbers and whose queries and keys have 65 or 72 costs about what one with 72 everywhere costs, or less. One adds such a
# channel to carry a bias for each key (a query channel of ones, a key channel of biases): sizes of merged tokens, multiplicities, ALiBi's slopes.
# Seen: with equal widths the fused CPU kernel runs; with a narrower v the unfused path, which makes the N x N weights: 3.1 times the time (float32, AMD EPYC,
# one thread, 12 heads, 1,025 tokens). Padding v with zeros to the same width and cutting the result back is faster than not padding it.
# What to do: pad q, k and v alike; or hand the bias over as a mask of one row, [B, 1, 1, N], which the CPU kernel takes fused.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
import statistics
import time

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

torch.set_num_threads(1)
HEADS, TOKENS, WIDTH, WIDER = 12, 1025, 64, 72
draw = torch.Generator().manual_seed(0)
q, k = (torch.randn(1, HEADS, TOKENS, WIDER, generator=draw) for _ in range(2))
v = torch.randn(1, HEADS, TOKENS, WIDTH, generator=draw)


def narrow() -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v)


def padded() -> torch.Tensor:
    return scaled_dot_product_attention(q, k, pad(v, (0, WIDER - WIDTH)))[..., :WIDTH]


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def kernels(call) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    return {event.key for event in seen.key_averages() if "attention" in event.key}


with torch.inference_mode():
    assert torch.allclose(narrow(), padded(), atol=1e-5)
    fused, unfused = kernels(padded), kernels(narrow)
    ratio = statistics.median(seconds(narrow) / seconds(padded) for _ in range(9))
print("padded:", *sorted(fused))
print("narrow:", *sorted(unfused))
print(f"narrow values take {ratio:.1f} times as long as padded ones")
assert any("flash" in name for name in fused) and not any("flash" in name for name in unfused), "changed"
assert ratio > 1.3, "changed"
PYTHON
