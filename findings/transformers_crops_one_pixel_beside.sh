#!/usr/bin/env bash
# transformers 5.23.0 and torchvision 0.29.2: CLIP's preprocessing of a 640 x 427 picture, a common size in COCO, is one pixel apart.
#
# Expected: CLIPImageProcessor and the pipeline of OpenAI's CLIP and open_clip (bicubic resize of the shorter side to 224, centre crop of 224) see
# the same pixels up to rounding: both resize by torchvision unless told otherwise.
# Seen: 640 x 427 becomes 335 x 224; 111 columns are cut off. torchvision's CenterCrop begins at column 56 (55.5, rounded half to even),
# CLIPImageProcessor at column 55 (rounded down; so does CLIPImageProcessorPil). Where 113 columns are over (640 x 425) both begin at 56, and
# even margins never differ: margins of 3, 7, 11 ... do. On a picture of noise that is 33 grey levels a pixel for 640 x 427, and 0.01 for
# 640 x 426. Of 79 images of COCO val2017 18 have such a margin, 10 of them 640 x 427 (the second commonest size there after 640 x 480).
# Features computed with one and a head or a published score of the other are then of slightly different pictures.
# What to do: one pipeline for everything that is compared; name it beside the number.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir \
    torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 pillow==12.3.0 numpy==2.4.6
cd "$room"
HF_HUB_OFFLINE=1 "$room/venv/bin/python" -I - <<'PYTHON'
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize
from transformers import CLIPImageProcessor

torch.set_num_threads(1)
processor = CLIPImageProcessor(do_normalize=False, do_rescale=False)
openai = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224), PILToTensor()])


def both(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """int ``[3, 224, 224]`` by transformers and by torchvision."""
    ours = processor(picture, return_tensors="pt").pixel_values[0]
    return ours.numpy().astype(int), openai(picture).numpy().astype(int)


def first_columns(width: int) -> tuple[int, int]:
    """Where the crop of a picture of 224 rows begins: its pixels are the number of their column."""
    columns = np.minimum(np.arange(width), 255).astype(np.uint8)
    one, other = both(Image.fromarray(np.broadcast_to(columns, (224, width)).copy()).convert("RGB"))
    return int(one[0, 0, 0]), int(other[0, 0, 0])


SEEN = {335: (55, 56), 336: (56, 56), 337: (56, 56), 338: (57, 57), 339: (57, 58)}
for width, expected in SEEN.items():
    seen = first_columns(width)
    print(f"{width} x 224: transformers begins at column {seen[0]}, torchvision at {seen[1]}")
    assert seen == expected, f"changed: {expected} before"

noise = np.random.default_rng(0).integers(0, 256, (427, 640, 3), dtype=np.uint8)
apart = {}
for height in (425, 426, 427):
    one, other = both(Image.fromarray(noise[:height]))
    apart[height] = float(np.abs(one - other).mean())
    if height == 427:
        moved = float(np.abs(one[:, :, 1:] - other[:, :, :-1]).mean())
print("mean difference in grey levels:", {f"640 x {height}": round(value, 2) for height, value in apart.items()}, "moved:", round(moved, 2))
assert max(apart[425], apart[426], moved) < 0.5 < 5 < apart[427], "changed"
PYTHON
