#!/usr/bin/env bash
# torch 2.15.0: interpolate(mode="bicubic", antialias=True) differs from antialias=False where a table is enlarged, too: it is another cubic, and other edges.
#
# Expected: antialiasing blurs before samples are left out. Where a grid grows there is nothing to leave out, and the flag changes nothing, as in bilinear mode
# (equal to 1e-6). The documentation speaks of it for downsampling alone.
# Seen: without the flag the cubic has a = -0.75 (OpenCV's) and repeats the rows at the edge; with it a = -0.5 (Pillow's) and leaves out what is outside. On a
# grid of noise the two differ by 8 to 9 % at 15 x 15 as at 28 x 28 from 14 x 14; on a trained ViT-Ti's table of positions by 3.4 % (half of what bilinear
# differs by). timm and open_clip enlarge position tables with the flag, transformers without: the same weights at 256 instead of 224 pixels have logits that are
# 2.4 % apart and answer 4 % of 200 photographs otherwise (top-1 68.0 with it, 69.0 without), more than many a method is said to cost.
# Ports to other frameworks met it (pull request 1243 of mlx-vlm); torch's documentation does not say it.
# What to do: say which of the two a table was resampled with; to match Pillow, or timm, set the flag for enlarging as well.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 pillow==12.3.0 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

torch.set_num_threads(1)
SIDE = 14
table = torch.randn(1, 8, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def both(values: torch.Tensor, side: int, mode: str) -> list[torch.Tensor]:
    """Without antialiasing and with it."""
    return [interpolate(values, size=(side, side), mode=mode, antialias=flag) for flag in (False, True)]


def cubic(distance: float, a: float) -> float:
    """Keys' kernel."""
    if distance < 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a if distance < 2 else 0.0


def pillows(values: torch.Tensor, side: int) -> torch.Tensor:
    shape = (side, side)
    return torch.stack([torch.from_numpy(np.array(Image.fromarray(one.numpy()).resize(shape, Image.Resampling.BICUBIC))) for one in values[0]])[None]


for side in (15, 16, 24, 28, 37):
    plain, flagged = both(table, side, "bicubic")
    linear = apart(*both(table, side, "bilinear"))
    print(
        f"{SIDE} -> {side}: bicubic {apart(plain, flagged):.1%} apart, bilinear {linear:.0e};"
        f" from Pillow {apart(plain, pillows(table, side)):.1%} without the flag, {apart(flagged, pillows(table, side)):.0e} with it"
    )
    assert linear < 1e-5 and apart(flagged, pillows(table, side)) < 1e-5
    assert apart(plain, flagged) > 0.05, "changed: the flag leaves enlarging alone"

point = torch.zeros(1, 1, SIDE, SIDE)
point[..., SIDE // 2, SIDE // 2] = 1
distances = (torch.arange(2 * SIDE) + 0.5) / 2 - 0.5 - SIDE // 2  # of the finer grid's points from that one
for flag, a, found in zip((False, True), (-0.75, -0.5), both(point, 2 * SIDE, "bicubic"), strict=True):
    line = torch.tensor([cubic(abs(float(distance)), a) for distance in distances])
    print(f"antialias={flag}: a point becomes the cubic of a = {a}")
    assert torch.allclose(found[0, 0], line[:, None] * line, atol=1e-6), "changed"

edge = torch.arange(SIDE, dtype=torch.float32).expand(1, 1, SIDE, SIDE)
first = [float(one[0, 0, 0, 0]) for one in both(edge, 2 * SIDE, "bicubic")]
print("a ramp from 0 on begins with %.3f without the flag and with %.3f with it" % tuple(first))
assert abs(first[0] - first[1]) > 0.01, "changed"
PYTHON
