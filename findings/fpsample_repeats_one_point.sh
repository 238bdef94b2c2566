#!/usr/bin/env bash
# fpsample 1.0.2: farthest-point sampling gives one point again and again once every position is taken, while other points are left.
#
# Expected: 60 samples of 100 points are 60 different indices; on ties any point that is not yet chosen will do.
# Seen: 100 points at 40 positions (each position two or three times, as patches of one colour before position embeddings are added):
# `fps_sampling` and both bucket samplers give 40 different indices, then one of them 20 times more, without a warning; `fps_npdu_sampling` gives 60
# different ones. As landmarks of a Nystrom method the copies make the small matrix singular, as a subsample they weigh one point 21-fold.
# torch_quickfps 2.1.0 does the same (seen on the same points; left out here, for it needs torch).
# What to do: count the distinct indices, or take out chosen points by a distance of -1.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir fpsample==1.0.2 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
from functools import partial

import fpsample
import numpy as np

positions = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
points = np.concatenate([positions, positions, positions[:20]])
SEEN = {
    "fps_sampling": (fpsample.fps_sampling, (40, 21)),
    "bucket_fps_kdtree_sampling": (fpsample.bucket_fps_kdtree_sampling, (40, 21)),
    "bucket_fps_kdline_sampling": (partial(fpsample.bucket_fps_kdline_sampling, h=3), (40, 21)),
    "fps_npdu_sampling": (fpsample.fps_npdu_sampling, (60, 1)),
}
for name, (sample, expected) in SEEN.items():
    times = np.bincount(sample(points, 60, start_idx=0))
    seen = int((times > 0).sum()), int(times.max())
    print(f"{name}: {seen[0]} different of 60, one of them {seen[1]} times")
    assert seen == expected, f"changed: {expected} before"
PYTHON
