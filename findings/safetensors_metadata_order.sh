#!/usr/bin/env bash
# safetensors 0.8.0: the same tensors with the same metadata are written as other bytes each time.
#
# Expected: `save` of equal tensors and equal metadata gives equal bytes, so that a checksum of the file names its content. The tensors
# themselves are put in a fixed order whatever the order of the dictionary.
# Seen: the metadata are written in the order of a hash map that is seeded anew for every call: eight keys, 20 calls of `save` in one process,
# 20 different files (all of the same length). One key, as {"format": "pt"}, always gives the same bytes: the fault shows once a second key
# (a step, a licence, a commit) is added to a checkpoint that was reproducible.
# What to do: hash the tensors (names, types, shapes, bytes in the order of names), or put all metadata into one key as JSON.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir safetensors==0.8.0 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

tensors = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float16)}
assert save(tensors) == save(dict(reversed(tensors.items()))), "changed: the order of the tensors counts"
assert len({save(tensors, metadata={"format": "pt"}) for _ in range(20)}) == 1

metadata = {key: "1" for key in ("format", "step", "epoch", "licence", "commit", "data", "seed", "author")}
files = [save(tensors, metadata=metadata) for _ in range(20)]
assert len({len(file) for file in files}) == 1
assert all(np.array_equal(load(file)["weight"], tensors["weight"]) for file in files)
different = len(set(files))
print(f"20 files of one content: {different} different")
raise SystemExit(0 if different > 1 else "changed: metadata are written in one order")
PYTHON
