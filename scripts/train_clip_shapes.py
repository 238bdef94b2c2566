"""Train clip_shapes, the small CLIP that ships with fna, on scenes drawn as it goes. `make zoo` runs this.

    python scripts/train_clip_shapes.py                      # resumes from outputs/zoo where it was stopped
    python scripts/train_clip_shapes.py --check              # the first losses, in float32, against the recorded ones
    python scripts/train_clip_shapes.py --export             # weights and losses into fna/models/zoo/clip_shapes

Four stages, small images first, single patches before whole images. Everything is decided by the step's number and SEED.
"""

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("train_clip_shapes", then="the same command goes on from its last checkpoint")

import argparse
import hashlib
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import open_clip
import recipe
import torch
from clip_shapes_batches import Batches, Stage, Words
from clip_shapes_losses import Helper, losses, read, see
from recipe import CHECKED, check, rate_at, save, tuned, write_losses
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from fna.data.scene_captions import full_caption
from fna.data.scene_drawing import draw
from fna.data.scenes import make_scene
from fna.data.shapes import SEEDS

ROOT = Path(__file__).parents[1]
HOME = ROOT / "fna/models/zoo/clip_shapes"
SEED = 0
STAGES = (
    Stage(sizes=(96,), batch=40, single=8, swaps=0, rate=1e-3, steps=1200, whole=0.1),
    Stage(sizes=(96,), batch=64, single=16, swaps=2, rate=1e-3, steps=600),
    Stage(sizes=(96, 128, 128, 160), batch=48, single=12, swaps=3, rate=8e-4, steps=500),
    Stage(sizes=(256, 256, 256, 208, 176, 144), batch=24, single=6, swaps=4, rate=6e-4, steps=800, ends=("", ".")),
)
WARM_UP = 40  # steps at the start of a stage in which the rate rises
DECAY = 0.4  # share of the last stage in which it falls to 0
WHOLE, PARTS = {"caption": 1.0, "single": 1.0, "claim": 0.5}, {"patch": 4.0, "outline": 2.0}  # weights of losses
SAVE_EVERY, LOOK_EVERY = 25, 200
# OpenMP spins while it waits; without that, and with glibc's blocks kept, a step takes half the time.
TUNED = recipe.TUNED | {"OMP_WAIT_POLICY": "PASSIVE"}


@torch.no_grad()
def look_nearby(visual: open_clip.transformer.VisionTransformer) -> None:
    """Start the image tower so that a patch attends to what is near and alike; from open_clip's own start it did not learn shapes.

    Positions are sines and cosines of x and y, wavelengths from 4 patches to 126; queries and keys of a head are one random
    projection (after mimetic initialisation, arXiv:2305.09828), so that a token's largest product is with itself.
    """
    grid, width = visual.grid_size[0], visual.conv1.out_channels
    speeds = math.pi / 2 * 10 ** (-1.5 * torch.arange(width // 4) / (width // 4))
    angles = torch.arange(grid)[:, None] * speeds
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    across, down = waves.expand(grid, -1, -1), waves[:, None].expand(-1, grid, -1)
    visual.positional_embedding[1:] = 0.3 * torch.cat([across, down], -1).flatten(0, 1)
    for block in visual.transformer.resblocks:
        heads = block.attn.num_heads
        queries, keys, _ = block.attn.in_proj_weight.chunk(3)
        shared = torch.cat([torch.linalg.qr(torch.randn(width, width // heads))[0].T for _ in range(heads)])
        queries.copy_(shared + 0.02 * torch.randn_like(shared))
        keys.copy_(shared + 0.02 * torch.randn_like(shared))


def build() -> tuple[open_clip.CLIP, Helper, torch.optim.Optimizer]:
    """The untrained model, what helps to train it (not shipped), and the optimiser of both."""
    torch.manual_seed(SEED)
    model = open_clip.create_model(f"local-dir:{HOME}", load_weights=False)
    model.train()
    look_nearby(model.visual)
    helper = Helper(model.visual.output_dim, model.visual.conv1.out_channels)
    both = [*model.parameters(), *helper.parameters()]
    plain, rest = [p for p in both if p.ndim >= 2], [p for p in both if p.ndim < 2]
    chosen = [{"params": plain, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return model, helper, torch.optim.AdamW(chosen, lr=0.0, betas=(0.9, 0.98))


@torch.no_grad()
def recall(model: open_clip.CLIP, words: Words, size: int, count: int = 500) -> tuple[float, float]:
    """R@1 in percent, image to text and text to image, full captions, all patches, scenes of `val`."""
    scenes = [make_scene(seed) for seed in SEEDS["val"][:count]]
    text = read(model, torch.from_numpy(words([full_caption(scene) for scene in scenes])))
    images: list[Tensor] = []
    for start in range(0, count, 20):
        pixels = torch.from_numpy(np.stack([draw(scene, size)[0] for scene in scenes[start : start + 20]]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images.append(see(model.visual, pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).image)
    alike = torch.cat(images) @ text.T
    right = torch.arange(count)
    return (
        100 * (alike.argmax(1) == right).float().mean().item(),
        100 * (alike.argmax(0) == right).float().mean().item(),
    )


def weigh(parts: Mapping[str, Tensor], whole: float) -> Tensor:
    """The sum of losses, those of whole images times `whole`: where they are heavy, shapes are learnt far more slowly."""
    weights = {**{name: whole * weight for name, weight in WHOLE.items()}, **PARTS}
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


def train(folder: Path, steps: int, workers: int, threads: int, dtype: torch.dtype = torch.bfloat16) -> list[dict[str, float]]:
    """Train up to `steps`, from the checkpoint in `folder` where there is one, products in `dtype`: the losses of all steps."""
    torch.set_num_threads(threads)
    model, helper, optimiser = build()
    folder.mkdir(parents=True, exist_ok=True)
    path, log, first = folder / "last.pt", [], 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        helper.load_state_dict(state["helper"])
        log, first = state["log"], state["step"]
        print(f"resuming at step {first} from {path}", flush=True)
    data = Batches(STAGES, str(HOME))
    total = min(steps, len(data))
    loader = DataLoader(Subset(data, range(first, total)), batch_size=None, num_workers=workers, prefetch_factor=3)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    began, earlier = time.time(), log[-1]["seconds"] if log else 0.0
    for step, batch in enumerate(loader, first):
        rate, number = rate_at(step, STAGES, WARM_UP, DECAY)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            parts = losses(model, helper, batch)
        loss = weigh(parts, STAGES[number].whole)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
            helper.dense_scale.clamp_(max=math.log(50))
        record = {"step": step, "rate": rate, "loss": loss.item(), **{name: part.item() for name, part in parts.items()}}
        done = step + 1
        ends = rate_at(done, STAGES, WARM_UP, DECAY)[1] != number or done == len(data)
        if ends or done % LOOK_EVERY == 0:
            size = STAGES[number].sizes[0]
            record["i2t_r1"], record["t2i_r1"] = recall(model, data.words, size)
            print(f"\nstep {done}, {size} px, val R@1 {record['i2t_r1']:.1f} {record['t2i_r1']:.1f}", flush=True)
        spent = time.time() - began
        record["seconds"] = round(earlier + spent, 1)
        log.append(record)
        if done % 10 == 0:
            left = spent / (done - first) * (total - done) / 60
            shown = " ".join(f"{name} {part.item():.3f}" for name, part in parts.items())
            rate_s = STAGES[number].scenes * (done - first) / spent
            print(f"step {done}/{total} {shown} | {rate_s:.0f} scenes/s, {left:.0f} min left at this pace", flush=True)
        if ends or done % SAVE_EVERY == 0 or done == total:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": done, "log": log}
            save(path, {**state, "helper": helper.state_dict()})
            if ends:
                save(folder / f"stage{number}.pt", {**state, "helper": helper.state_dict()})
    return log


def export(folder: Path) -> None:
    """Weights (fp16), their digest, and the losses, from the last checkpoint in `folder`."""
    state = torch.load(folder / "last.pt", weights_only=True)
    half = {name: tensor.half().contiguous() for name, tensor in state["model"].items()}
    part = HOME / "model.safetensors.part"
    save_file(half, part)
    part.replace(HOME / "model.safetensors")  # whole or not at all
    digest = hashlib.sha256((HOME / "model.safetensors").read_bytes()).hexdigest()
    (HOME / "model.sha256").write_text(f"{digest}  model.safetensors\n")
    names = ("step", "rate", "loss", *WHOLE, *PARTS, "seconds", "i2t_r1", "t2i_r1")
    write_losses(HOME / "losses.csv", names, state["log"], mark="i2t_r1")
    print(f"step {state['step']}: {digest}")


def first_losses(steps: int, workers: int) -> list[dict[str, float]]:
    """The losses of at most CHECKED first steps in float32, from the start, leaving nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        return train(Path(folder), min(steps, CHECKED), workers, 1, torch.float32)


def main() -> int:
    tuned(TUNED)
    asks = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asks.add_argument("--out", type=Path, default=ROOT / "outputs/zoo", help="checkpoints go here")
    asks.add_argument("--steps", type=int, default=sum(stage.steps for stage in STAGES), help="stop after so many")
    asks.add_argument("--check", action="store_true", help="compare the first losses with the recorded ones")
    asks.add_argument("--export", action="store_true", help="only write the weights of the last checkpoint")
    asks.add_argument("--workers", type=int, default=1, help="processes that draw")
    asks.add_argument("--threads", type=int, default=1, help="of torch; the recorded losses were made with one")
    args = asks.parse_args()
    if args.check:
        return check(first_losses(args.steps, args.workers), HOME / "losses_float32.csv", "loss")
    if not args.export:
        train(args.out, args.steps, args.workers, args.threads)
        if args.steps < sum(stage.steps for stage in STAGES):
            return 0
    export(args.out)
    return 0
