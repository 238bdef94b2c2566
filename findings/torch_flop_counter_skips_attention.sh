#!/usr/bin/env bash
# torch 2.15.0: FlopCounterMode counts nothing at all for nn.MultiheadAttention and nn.TransformerEncoderLayer in eval mode without gradients.
#
# Expected: the FLOPs of a forward do not depend on whether gradients are recorded.
# Seen: [2, 65, 64] tokens, 4 heads: 6,423,040 FLOPs with gradients, 0 under torch.no_grad() and torch.inference_mode(); an encoder layer with
# an MLP of 256 14,942,720 and 0. In eval mode without gradients both run as one fused operator that has no formula, and an operator without
# a formula counts as 0 in silence (projections and the MLP with it). `F.scaled_dot_product_attention` and matmuls are counted. So full
# attention of an open_clip model looks free beside an approximation written out in matmuls: the comparison is upside down, not only off.
# Solves and inverses (torch.linalg.solve, inv, pinv, svd) count 0 as well, in any mode: a Nystrom method looks cheaper than it is.
# What to do: torch.backends.mha.set_fastpath_enabled(False) while counting, formulas of one's own (custom_mapping) for solves.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

torch.set_num_threads(1)
x = torch.randn(2, 65, 64)
attention = nn.MultiheadAttention(64, 4, batch_first=True).eval()
layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True).eval()
heads = torch.randn(2, 4, 65, 16)
square = torch.eye(8).expand(2, 8, 8)


def count(forward: Callable[[], object], mode: Callable[[], AbstractContextManager] = torch.no_grad) -> int:
    with mode(), FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops()


for name, forward, full in (
    ("MultiheadAttention", lambda: attention(x, x, x, need_weights=False), 6_423_040),
    ("TransformerEncoderLayer", lambda: layer(x), 14_942_720),
):
    counted = [count(forward, mode) for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode)]
    print(f"{name}: {counted[0]:,} with gradients, {counted[1]:,} and {counted[2]:,} without")
    assert counted == [full, 0, 0], "changed"
    torch.backends.mha.set_fastpath_enabled(False)
    assert count(forward) == full, "changed: the fast path is not what hides them"
    torch.backends.mha.set_fastpath_enabled(True)

assert count(lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads)) == 2 * 2 * 4 * 65 * 65 * 16 * 2
for name in ("inv", "pinv", "svd"):
    assert count(lambda name=name: getattr(torch.linalg, name)(square), torch.enable_grad) == 0, f"changed: {name} is counted"
assert count(lambda: torch.linalg.solve(square, square)) == 0, "changed: solve is counted"
PYTHON
