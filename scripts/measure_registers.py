"""Test-time registers, block by block: what becomes of the largest patch norm, and what the appended token takes.

    python scripts/measure_registers.py [--images 100] [--neurons 1,3,5,10,20,50]

The real ViT-Ti of ../shared/data. Neurons are found on the first 100 images of Tiny-ImageNet, norms are means over the images after
these; top-1 is ``python run.py mask=test_time_registers``'s to measure.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("measure_registers")

import argparse

import torch
from torch import Tensor

from fna.configs import instantiate, load_option
from fna.data.loading import batches
from fna.models.base import Model
from fna.ops.exact import Exact
from fna.surgery.lookahead import swap_masked
from fna.surgery.probe import Records, recording
from fna.surgery.registers import Registers
from fna.tasks.calibration import BATCH, calibrated, run_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--neurons", default="1,3,5,10,20,50")
    options = parser.parse_args()
    source = instantiate(load_option("model", "vit_tiny_tinyimagenet"))
    model = source.build(image_size=None, device="cpu", dtype="float32", seed=0)
    data = instantiate(load_option("dataset", "tiny_imagenet")).load(None)
    others = data.examples[Registers().calibration :][: options.images]
    images = torch.cat([batch.images for batch in batches(others, model.transform, batch_size=BATCH, skipped=[], strict=True)])
    print(f"{len(images)} images; blocks 0 to {model.depth - 1}")
    print("untouched, largest patch     ", said(norms(model, images, None)[..., 1:].amax(-1)))
    for count in map(int, options.neurons.split(",")):
        registers = calibrated(Registers(neurons=count), model, data)
        assert isinstance(registers, Registers)
        assert registers.found is not None
        seen = norms(model, images, registers)
        print(f"{count:2d} neurons of blocks {', '.join(map(str, registers.found))}")
        print("           largest patch     ", said(seen[..., 1 : model.token_count].amax(-1)))
        print("           appended token    ", said(seen[..., -1]))


def norms(model: Model, images: Tensor, registers: Registers | None) -> Tensor:
    """Norms of all tokens leaving each block ``[n, blocks, N]``; with registers the appended token is the last."""
    seen: list[Records] = []
    plan = {model.depth - 1: Exact()}
    with (
        torch.inference_mode(),
        swap_masked(model.tower, plan, registers),
        recording(model.tower, seen.append, streams=("leaving",)),
    ):
        for batch in images.split(BATCH):
            run_images(model)(batch)
    return torch.cat([records["leaving"] for records in seen])


def said(values: Tensor) -> str:
    """``[n, blocks]`` as one mean a block."""
    return " ".join(f"{value:5.0f}" for value in values.mean(0).tolist())
