#!/usr/bin/env bash
# Pillow 12.3.0: a PGM whose header says that its largest value is N is read stretched to 255 (or 65535); PNG and TIFF are not.
#
# Expected: a label map of the classes 0..20 kept as PGM with the maximum 20, as netpbm's own tools write it, reads as 0..20: `Image.open`
# gives a PNG's and a TIFF's values as stored.
# Seen: maximum 20: class 1 reads as 13, 20 as 255 (mode L). Maximum 1000: 1 reads as 66, 1000 as 65535 (mode I, 32 bits, where a PNG or TIFF of
# 16 bits is I;16). Maximum 255 or 65535: as stored. No warning, and with 150 classes most stretched values are classes too, so that a mean IoU
# comes out, of nothing. Depth maps in millimetres (maximum 4095) suffer alike.
# What to do: read label maps and depths from PNG, or undo it by the header's number: round(value * N / 255).
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir pillow==12.3.0 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
from io import BytesIO

import numpy as np
from PIL import Image


def pgm(values: list[int], largest: int) -> BytesIO:
    """A raw PGM of one row: one byte a value up to 255, two (big end first) above."""
    stored = np.array(values, ">u2" if largest > 255 else "u1").tobytes()
    return BytesIO(f"P5 {len(values)} 1 {largest}\n".encode() + stored)


def saved(values: list[int], kind: type, suffix: str) -> BytesIO:
    file = BytesIO()
    Image.fromarray(np.array([values], kind)).save(file, suffix)
    return file


def read(file: BytesIO) -> tuple[str, list[int]]:
    with Image.open(file) as image:
        return image.mode, np.asarray(image)[0].tolist()


labels, depths = [0, 1, 2, 20], [0, 1, 500, 1000]
SEEN = [
    ("PNG", saved(labels, np.uint8, "PNG"), ("L", labels)),
    ("PGM, maximum 255", pgm(labels, 255), ("L", labels)),
    ("PGM, maximum 20", pgm(labels, 20), ("L", [0, 13, 26, 255])),
    ("PNG of 16 bits", saved(depths, np.uint16, "PNG"), ("I;16", depths)),
    ("TIFF of 16 bits", saved(depths, np.uint16, "TIFF"), ("I;16", depths)),
    ("PGM, maximum 65535", pgm(depths, 65535), ("I", depths)),
    ("PGM, maximum 1000", pgm(depths, 1000), ("I", [0, 66, 32768, 65535])),
]
for name, file, expected in SEEN:
    seen = read(file)
    print(f"{name}: {seen}")
    assert seen == expected, f"changed: {name} was {expected}"
PYTHON
