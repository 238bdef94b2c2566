#!/usr/bin/env bash
# pycocotools 2.0.11 with numpy 2.4.6: the areas of a list of 256 masks or more are refused.
#
# Expected: `mask.area(codes)` gives one number a mask, whatever the length of the list; `iou`, `toBbox` and `decode` of the same list do.
# Seen: 255 masks give 255 areas; 256 masks (a crowded image, or one mask a class over a data set) raise
#     OverflowError: Python integer 256 out of bounds for uint8
# With numpy 1.26.4 the same wheel gives 256 and 600 areas, all right. The message names neither masks nor lists, and small test data
# never meets it.
# What to do: [mask.area(code) for code in codes].
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir pycocotools==2.0.11 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
import numpy as np
from pycocotools import mask

code = mask.encode(np.asfortranarray(np.eye(4, dtype=np.uint8)))
assert mask.area([code] * 255).tolist() == [4] * 255
for count in (256, 600):
    many = [code] * count
    assert mask.toBbox(many).shape == (count, 4)
    assert mask.decode(many).shape == (4, 4, count)
    assert mask.iou(many, [code], [0]).shape == (count, 1)
    try:
        mask.area(many)
    except OverflowError as error:
        print(f"area of {count} masks: OverflowError: {error}")
    else:
        raise SystemExit(f"changed: {count} masks have areas now")
PYTHON
