#!/usr/bin/env bash
# torch 2.15.0 on a CPU with glibc: a warm forward pass of a vision transformer takes 90 to 170 MB of fresh, zeroed pages from the kernel, every pass; how many
# is drawn once for a process: the same script, weights and input fall in one of a few classes, so one process is slower than the next for its whole life.
#
# Expected: after a pass or two the allocator holds all that a pass needs, as torch's CUDA allocator does; warm passes of one script take one time.
# Seen (twelve pre-norm blocks of ViT-S, 1,370 tokens, float32, two threads; page faults of the third to seventh pass, ten processes): 22,735, 35,194 or 41,807
# a pass. torch frees to glibc, which gives memory at the heap's top back as soon as there is more than its moving threshold. Why processes differ was not found
# (they do with the addresses of a process fixed, `setarch -R`, too). With a timm DINOv2-S at 518 px it was between 0 and 49,500 (200 MB), and 15 % of the time.
# What to do: measure with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 in the environment, or mallopt() at the start (fna does so in its runs): no fault.
# More processes or more rounds in one do not average it out, where the variants compared allocate unlike amounts.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU. Needs glibc.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 numpy==2.4.6
cat > "$room/passes.py" <<'PYTHON'
import resource

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

torch.manual_seed(0)
torch.set_num_threads(2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(384), nn.LayerNorm(384)
        self.inner, self.outer = nn.Linear(384, 1152), nn.Linear(384, 384)
        self.mlp = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inner(self.first(x)).unflatten(-1, (3, 6, 64)).permute(2, 0, 3, 1, 4)
        x = x + self.outer(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


model, x = nn.Sequential(*(Block() for _ in range(12))).eval(), torch.randn(1, 1370, 384)
seen = []
with torch.inference_mode():
    for _ in range(7):
        before = faults()
        model(x)
        seen.append(faults() - before)
print(sorted(seen[2:])[2])
PYTHON
plain=() kept=()
for _ in 1 2 3 4 5 6 7 8 9 10; do plain+=("$("$room/venv/bin/python" -I "$room/passes.py")"); done
for _ in 1 2 3; do kept+=("$(MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 "$room/venv/bin/python" -I "$room/passes.py")"); done
echo "faults a pass, as it is: ${plain[*]}"
echo "faults a pass, with what is freed kept: ${kept[*]}"
python3 - "${#plain[@]}" "${plain[@]}" "${kept[@]}" <<'PYTHON'
import sys

count, *values = map(int, sys.argv[1:])
plain, kept = values[:count], values[count:]
assert min(plain) > 10_000, "changed"
assert len({round(value, -3) for value in plain}) > 1, "changed"
assert max(kept) < 1_000, "changed"
PYTHON
