#!/usr/bin/env bash
# torch 2.15.0 on a CPU: nn.MultiheadAttention without gradients leaves fused attention for its "fast path", which makes the N x N weights and is the slower one.
#
# Expected: in eval() under no_grad() or inference_mode(), with need_weights=False, a module asks for no more memory and no more time than with gradients on,
# and the attention is scaled_dot_product_attention's fused kernel, whose memory is linear in the tokens.
# Seen: only with gradients on. Without them aten::_native_multi_head_attention runs two batched products and a softmax over all weights: at 4,097 tokens and
# 2 heads the largest block is 128 MB where the fused way takes 6 MB, and it needs 2.2 to 2.5 times the time (float32, one thread, AMD EPYC). The answers agree to
# rounding. Every model on nn.MultiheadAttention is concerned, open_clip's towers and torchvision's ViTs among them: whoever swaps only the attention
# of such a model by a fused one has "sped it up" before any approximation.
# What to do: torch.backends.mha.set_fastpath_enabled(False); and measure any gain against fused attention in the same place, not against the module as it comes.
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
from torch.profiler import ProfilerActivity, profile

torch.set_num_threads(1)
torch.manual_seed(0)
TOKENS, HEADS = 4097, 2
module = torch.nn.MultiheadAttention(64 * HEADS, HEADS, batch_first=True).eval()
tokens = torch.randn(1, TOKENS, 64 * HEADS)


def answered(fast: bool) -> torch.Tensor:
    torch.backends.mha.set_fastpath_enabled(fast)
    with torch.no_grad():
        return module(tokens, tokens, tokens, need_weights=False)[0]


def seen(fast: bool) -> tuple[set[str], float]:
    """The operators of one call, and the largest block of memory that one of them asked for, in MB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        answered(fast)
    return {event.key for event in profiled.key_averages()}, max(event.cpu_memory_usage for event in profiled.events()) / 1e6


def took(fast: bool) -> float:
    start = time.perf_counter()
    answered(fast)
    return time.perf_counter() - start


ratio = statistics.median(took(True) / took(False) for _ in range(5))
(fast, fast_mb), (fused, fused_mb) = seen(True), seen(False)
off = float((answered(True) - answered(False)).abs().max())
print(f"fast path: {fast_mb:.0f} MB in one block; fused attention: {fused_mb:.0f} MB; time {ratio:.1f} times; answers {off:.0e} apart")
assert "aten::_native_multi_head_attention" in fast and "aten::scaled_dot_product_attention" not in fast
assert "aten::scaled_dot_product_attention" in fused
assert fast_mb > 4 * TOKENS**2 * HEADS / 1e6 * 0.95 and fused_mb < 10
assert ratio > 1.3 and off < 1e-5
PYTHON
