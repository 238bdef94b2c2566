#!/usr/bin/env bash
# Pillow 12.3.0: an uncompressed 16-bit colour TIFF that stores its channels one after another is read as noise, without a word.
#
# Expected: the picture, as Pillow reads it when the same file is compressed, has 8 bits, or stores its channels interleaved; or an error.
# Seen: of the twelve ways to write one colour gradient (interleaved or planar; uncompressed, deflate, LZW; 8 or 16 bits) eleven are read right,
# the 16-bit ones by their high bytes. The planar, uncompressed, 16-bit one opens as RGB of the right size, and is wrong by 66 of 255 on average: each
# plane is taken as bytes, so that low and high bytes stand side by side as pixels and the lower half of the picture is never read.
# Planar is what scientific writers choose for channel-first arrays; no exception and no warning tells a data set of them from one of noise.
# What to do: look for tag 284 = 2 in an uncompressed file of 16 bits, and read it with tifffile, or refuse it.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir pillow==12.3.0 numpy==2.4.6 tifffile==2026.3.3 imagecodecs==2026.3.6
cd "$room"
"$room/venv/bin/python" -I - <<'PYTHON'
import warnings
from itertools import product

import numpy as np
import tifffile
from PIL import Image

warnings.simplefilter("error")
ROWS, COLUMNS = 64, 96
y, x = np.mgrid[0:ROWS, 0:COLUMNS]
truth = np.stack([x * 65535 // (COLUMNS - 1), y * 65535 // (ROWS - 1), (x + y) * 65535 // (ROWS + COLUMNS - 2)], -1).astype(np.uint16)
high = (truth >> 8).astype(np.uint8)
wrong = {}
for planar, compression, wide in product(("contig", "separate"), (None, "zlib", "lzw"), (False, True)):
    pixels = truth if wide else high
    stored = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    tifffile.imwrite("it.tif", stored, photometric="rgb", planarconfig=planar, compression=compression)
    assert np.array_equal(tifffile.imread("it.tif"), stored), "the file itself is right"
    with Image.open("it.tif") as image:
        assert image.mode == "RGB" and image.size == (COLUMNS, ROWS)
        seen = np.asarray(image).astype(int)
    error = np.abs(seen - high).mean()
    print(f"{planar:8s} {compression or 'uncompressed':12s} {16 if wide else 8:2d} bits: off by {error:.1f} of 255")
    if error > 0:
        wrong[planar, compression, wide] = seen
assert list(wrong) == [("separate", None, True)], f"changed: {list(wrong)} are read wrong"
taken = np.ascontiguousarray(np.moveaxis(truth, -1, 0), "<u2").reshape(3, -1).view(np.uint8)[:, : ROWS * COLUMNS].reshape(3, ROWS, COLUMNS)
assert np.array_equal(np.moveaxis(wrong["separate", None, True], -1, 0), taken), "changed: it is no longer the bytes of the upper half"
PYTHON
