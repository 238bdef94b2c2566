"""What the rules find where there is nothing, and what they miss where there is something: other images, other random weights.

    python scripts/measure_rules.py FOLDER... [--images 40] [--seeds 3]

The real ViT-Ti of ../shared/data, then its architecture at random weights, on images of the second half of each folder: runs and
calibrations take theirs from the front. Block of detection and threshold of log_gap are calibrated on the first 64 images of
Tiny-ImageNet, as a run does it. In the real model what log_gap finds is taken for the truth; at random weights there is nothing to
find.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("measure_rules")

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from fna.configs import instantiate, load_option
from fna.data.loading import open_image
from fna.masking.rules import ClsProxy
from fna.masking.strategy import Masking
from fna.models.base import Model
from fna.tasks.calibration import calibrated
from fna.tasks.study import judge_at, judges, record

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=40, help="of each folder")
    parser.add_argument("--seeds", type=int, default=3, help="how many random weights")
    options = parser.parse_args()
    data = instantiate(load_option("dataset", "tiny_imagenet")).load(None)
    for name, model in models(options.seeds):
        seek = calibrated(Masking(rule="log_gap"), model, data)
        assert isinstance(seek, Masking)
        print(f"\n{name}: block {seek.window(model.depth)[1]}, log_gap above {seek.threshold:.4g}")
        print(f"{'images':28s}{'rule':22s}{'tokens an image':>16s}{'images with any':>17s}{'missed':>9s}{'invented':>10s}")
        for folder in options.folders:
            report("/".join(folder.parts[-2:]), model, seek, images(folder, model, options.images), name == "trained")


def models(seeds: int) -> Iterator[tuple[str, Model]]:
    """The trained model, then as many with random weights."""
    option = load_option("model", "vit_tiny_tinyimagenet")
    random = OmegaConf.merge(option, {"checkpoint": None, "random": True})
    for name, node, seed in [("trained", option, 0), *((f"random, seed {seed}", random, seed) for seed in range(1, seeds + 1))]:
        yield name, instantiate(node).build(image_size=None, device="cpu", dtype="float32", seed=seed)


def images(folder: Path, model: Model, count: int) -> Tensor:
    """``[n, 3, h, w]``, spread evenly over the second half of the folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    files = files[len(files) // 2 :]
    chosen = files[:: max(1, len(files) // count)][:count]
    return torch.stack([model.transform(open_image(path)) for path in chosen])


def report(name: str, model: Model, seek: Masking, x: Tensor, trained: bool) -> None:
    """One line a rule; missed and invented are tokens an image."""
    detect = seek.window(model.depth)[1]
    bare = judge_at(ClsProxy(least=0, stands=0), detect)
    seen = record(model, x, calls=judges(seek, detect) | {"cls_proxy, bare": bare}, seek=seek)
    rules = [*judges(seek, detect), "cls_proxy, bare"]
    found = {rule: seen[rule][:, detect] for rule in rules} | {"sink set": seen["sinks"]}
    for rule, chosen in sorted(found.items()):
        truth = found["log_gap"] if trained else torch.zeros_like(chosen)
        line = [chosen, truth & ~chosen, chosen & ~truth]
        each, missed, invented = (tokens.sum(1).float().mean().item() for tokens in line)
        some = 100 * chosen.any(1).float().mean().item()
        print(f"{f'{name} ({len(x)})':28s}{rule:22s}{each:16.2f}{some:15.0f} %{missed:9.2f}{invented:10.2f}", flush=True)
