"""Made-up run folders for the tests: every number in here is invented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

Result = dict[str, Any]


def result(**changes: Any) -> Result:
    """A whole result with invented numbers; keyword arguments replace keys at the root."""
    made: Result = {
        "schema": 1, "hash": "00aa11bb22cc", "status": "ok", "model": "made_up_vit", "checkpoint": "made-up.safetensors",
        "dataset": "made_up_photos", "split": "val", "task": "classification", "attn": "fna", "sampler": "fps", "reduce": "none",
        "mask": "none", "kv": "none", "landmarks": 64, "layers": [4, 5, 6, 7], "image_size": [256, 256], "tokens": 1025,
        "samples": 500, "seed": 0, "dtype": "float32", "device": "cpu",
        "metrics": {
            "top1": {"full": 71.25, "variant": 71.05, "delta": -0.2, "ci": [-0.8, 0.4]},
            "top5": {"full": 90.5, "variant": 90.1, "delta": -0.4, "ci": [-1.1, 0.3]},
        },
        "fidelity": {"agreement": 96.4, "output_error": 0.042, "agreement_ci": [94.8, 97.9], "output_error_ci": [0.039, 0.046]},
        "cost": {
            "speedup": {"median": 1.19, "ci": [1.17, 1.21]}, "baseline": "exact", "sampling_share": 0.031,
            "images_per_second": {"full": 9.5, "exact": 12.25, "variant": 14.6}, "flops": {"full": 14.0e9, "variant": 11.2e9},
            "peak_memory_bytes": {"full": 512_000_000, "variant": 480_000_000},
            "stages": {"rest of the model": 0.7, "landmark attention": 0.17, "sampling": 0.031, "inverse": 0.1}, "floor": 0.77,
        },
        "environment": {"versions": {"torch": "0.0.0"}, "python": "3.11", "threads": 2, "gpu": None},
        "notes": [], "skipped": [], "warnings": [], "rows": {"full": "ff00", "variant": "00aa11bb22cc"}, "seconds": 12.5,
    }  # fmt: skip
    return made | changes


def failed(error: str = "landmarks=0: give a count of at least 1") -> Result:
    """What a failed job leaves."""
    return {
        "schema": 1,
        "status": "failed",
        "error": error,
        "model": "made_up_vit",
        "attn": "fna",
        "sampler": "random",
        "landmarks": 0,
    }


def retrieval(**changes: Any) -> Result:
    """A result of retrieval, both directions."""
    names = [f"{way}_r{k}" for way in ("t2i", "i2t") for k in (1, 5, 10)]
    metrics = {
        name: {"full": 90.0 + i, "variant": 89.0 + i, "delta": -1.0 + 0.1 * i, "ci": [-1.4, 0.5]} for i, name in enumerate(names)
    }
    return result(task="retrieval", metrics=metrics) | changes


def study() -> dict[str, Any]:
    """What task=tokens leaves of a model of two blocks, found in block 1."""
    names = ["cls", "massive", "artifact", "normal"]
    norms = {"cls": [9.0, 9.0], "massive": [20.0, 300.0], "artifact": [None, None], "normal": [8.0, 10.0]}
    pairs = [[[0.5, -0.25, None, 0.125]] * 4] * 2
    ranks = [{"partition": cut, "rank": rank, "error": 0.5 / rank, "agreement": 80.0} for cut in (False, True) for rank in (1, 2)]
    sunk = [{"mode": "mask", "pattern": "type1", "removed": n, "norms": [300.0, 280.0], "cls": [0.3, 0.2]} for n in (0, 1)]
    return {
        "names": names, "first": 0, "detect": 1, "images": 4, "grid": [3, 4],
        "counts": {"cls": 1.0, "massive": 2.5, "artifact": 0.0, "normal": 9.5},
        "norms": {"entering": norms, "attended": norms, "leaving": norms},
        "where": {"massive": [0.5] * 12, "artifact": [0.0] * 12},
        "overlap": {"rules": ["fixed_norm", "sink set"], "per_image": [2.5, 2.0], "jaccard": [[1.0, 0.75], [0.75, None]]},
        "mass": pairs, "suppression": pairs, "growth": {"start": 0, "without": norms, "without_bias": norms},
        "iterative": sunk, "ranks": ranks,
    }  # fmt: skip


def write_study(folder: Path) -> Path:
    """A run of task=tokens with its study and a picture that has two massive tokens and one artifact."""
    write_run(folder, result(task="tokens"), pictures=True)
    (folder / "tokens.json").write_text(json.dumps(study()))
    marked = {"image": "pictures/0.png", "key": "a.jpg", "grid": [3, 4], "prefix": 1, "massive": [1, 4], "artifact": [12]}
    (folder / "gallery.json").write_text(json.dumps({"tokens": [marked]}))
    return folder


def write_run(folder: Path, content: Result, *, pictures: bool = False) -> Path:
    """A run folder with its result.json and, if asked, a gallery of one picture with three landmarks and one flip."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(content))
    if pictures:
        (folder / "pictures").mkdir()
        Image.new("RGB", (64, 48), (200, 120, 40)).save(folder / "pictures/0.png")
        gallery = {
            "landmarks": [{"image": "pictures/0.png", "key": "a.jpg", "grid": [3, 4], "prefix": 1, "index": [0, 1, 7, 12]}],
            "flips": [
                {"image": "pictures/0.png", "key": "b.jpg", "truth": "cat", "full": "cat", "variant": "dog", "better": "full"}
            ],
            "a section of later": [{"that": "nobody here knows"}],
        }
        (folder / "gallery.json").write_text(json.dumps(gallery))
    return folder


def write_sweep(folder: Path) -> Path:
    """A sweep of three samplers and three counts of landmarks, in folders named 0 to 8."""
    for job in range(9):
        sampler, count = ("fps", "uniform", "random")[job // 3], (16, 32, 64)[job % 3]
        delta = -4.0 / (job % 3 + 1) - 0.9 * (job // 3)
        top1 = {"full": 71.25, "variant": 71.25 + delta, "delta": delta, "ci": [delta - 1.2, delta + 1.1]}
        content = result(sampler=sampler, landmarks=count, metrics={"top1": top1}, hash=f"made-up-{job}")
        content["cost"] = content["cost"] | {"speedup": {"median": 1.25 - count / 600 + job / 300, "ci": [1.05, 1.3]}}
        write_run(folder / str(job), content)
    return folder
