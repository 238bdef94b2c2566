"""What clip_shapes can do, on scenes it has not seen: the figures of its card, as JSON.

    python scripts/measure_clip_shapes.py [--count 500] [--split test] [--checkpoint outputs/zoo/last.pt]

Weights are loaded and run by plain open_clip, without fna's surgery, except for the last lines (`--swap`), which compare FNA.
"""

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("measure_clip_shapes")

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from clip_shapes_losses import see
from torch import Tensor

from fna.data.scene_captions import full_caption, swapped_captions
from fna.data.scene_drawing import draw
from fna.data.scene_files import scenes_of
from fna.data.scenes import SHAPES, Scene

HOME = Path(__file__).parents[1] / "fna/models/zoo/clip_shapes"
SIZE, CHUNK = 256, 20


def load(checkpoint: str | None) -> tuple[open_clip.CLIP, open_clip.SimpleTokenizer]:
    """The shipped weights, or those of a training checkpoint."""
    model = open_clip.create_model(f"local-dir:{HOME}", load_weights=checkpoint is None).eval()
    if checkpoint:
        model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return model, open_clip.get_tokenizer(f"local-dir:{HOME}", bpe_path=f"{HOME}/merges.txt.gz")


def pixels_of(scenes: list[Scene]) -> Iterator[Tensor]:
    """Chunks `[CHUNK, 3, SIZE, SIZE]`, normalised as the model's config says."""
    for start in range(0, len(scenes), CHUNK):
        drawn = np.stack([draw(scene, SIZE)[0] for scene in scenes[start : start + CHUNK]])
        yield torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def embed(model: open_clip.CLIP, scenes: list[Scene]) -> Tensor:
    return torch.cat([model.encode_image(pixels, normalize=True) for pixels in pixels_of(scenes)])


def recall(images: Tensor, texts: Tensor) -> dict[str, float]:
    """R@1 in percent, both ways."""
    alike, right = images @ texts.T, torch.arange(len(images))
    hits = {"i2t_r1": alike.argmax(1) == right, "t2i_r1": alike.argmax(0) == right}
    return {name: round(100 * hit.float().mean().item(), 1) for name, hit in hits.items()}


def segment(model: open_clip.CLIP, words: Tensor, scenes: list[Scene]) -> tuple[float, float]:
    """Mean IoU over background and shapes, and share of right pixels, in percent; patches' values against `words` `[9, E]`."""
    table = np.zeros((9, 9))
    for start, pixels in zip(range(0, len(scenes), CHUNK), pixels_of(scenes), strict=True):
        dense = see(model.visual, pixels).dense @ words.T
        grid = dense.mT.unflatten(-1, (SIZE // 8, SIZE // 8))
        found = F.interpolate(grid, (SIZE, SIZE), mode="bilinear").argmax(1).numpy()
        for scene, prediction in zip(scenes[start : start + CHUNK], found, strict=True):
            names = np.array([0, *(SHAPES.index(thing.shape) + 1 for thing in scene.things)])
            np.add.at(table, (names[draw(scene, SIZE)[1]], prediction), 1)
    shared = np.diag(table)
    return 100 * float(np.mean(shared / (table.sum(0) + table.sum(1) - shared))), 100 * float(shared.sum() / table.sum())


def look_inside(model: open_clip.CLIP, scenes: list[Scene]) -> list[dict[str, float]]:
    """By block: norms of the tokens that enter it, and the rank of its attention, exp of the entropy of the squared
    singular values, at most 1,025; means over heads and scenes."""
    rows: list[dict[str, float]] = []
    x = model.visual._embeds(next(pixels_of(scenes)))
    for number, block in enumerate(model.visual.transformer.resblocks):
        norms = x.norm(dim=-1)
        q, k, _ = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
        q, k = (t.unflatten(-1, (-1, 64)).transpose(1, 2) for t in (q, k))
        power = torch.linalg.svdvals((q / 8 @ k.mT).softmax(-1)).square()
        share = power / power.sum(-1, keepdim=True)
        rank = (-(share * share.clamp(min=1e-12).log()).sum(-1)).exp()
        row = {
            "cls_norm": norms[:, 0].mean(),
            "patch_norm": norms[:, 1:].mean(),
            "largest_norm": norms[:, 1:].max(),
            "attention_rank": rank.mean(),
        }
        rows.append({"block": number, **{name: round(value.item(), 2) for name, value in row.items()}})
        x = block(x)
    return rows


@torch.no_grad()
def main() -> None:
    asks = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asks.add_argument("--count", type=int, default=500)
    asks.add_argument("--split", default="test")
    asks.add_argument("--checkpoint")
    asks.add_argument("--swap", action="store_true", help="compare FNA with full attention as well")
    args = asks.parse_args()
    model, tokenizer = load(args.checkpoint)
    scenes, single = scenes_of(args.split, args.count), scenes_of(args.split, args.count, "single")
    images = embed(model, scenes)
    texts = model.encode_text(tokenizer([full_caption(scene) for scene in scenes]), normalize=True)
    twins = scenes_of(args.split, args.count, "twins")
    twin_texts = model.encode_text(tokenizer([full_caption(scene) for scene in twins]), normalize=True)
    told: dict[str, object] = {"count": args.count, **recall(images, texts), "twins": recall(embed(model, twins), twin_texts)}
    rights = 0
    for image, text, scene in zip(images, texts, scenes, strict=True):
        wrong = model.encode_text(tokenizer(swapped_captions(scene, 9)), normalize=True)
        rights += bool(image @ text > (wrong @ image).max())
    told["right_among_swapped"] = round(100 * rights / args.count, 1)
    names = ["a photo of the background", *(f"a photo of a {shape}" for shape in SHAPES)]
    words = model.encode_text(tokenizer(names), normalize=True)
    labels = torch.tensor([SHAPES.index(scene.things[0].shape) for scene in single])
    hit = (embed(model, single) @ words[1:].T).argmax(1) == labels
    told["single_shape_top1"] = round(100 * hit.float().mean().item(), 1)
    told["dense_miou"], told["dense_pixels"] = (round(value, 1) for value in segment(model, words, scenes))
    told["inside"] = look_inside(model, scenes[:2])
    if args.swap:
        import fna

        for layers in ("last-half", "all"):
            with fna.swap(model, "fna", layers=layers, landmarks=64):
                told[f"fna_64_{layers}"] = recall(embed(model, scenes), texts)
                told[f"fna_64_{layers}_twins"] = recall(embed(model, twins), twin_texts)
    print(json.dumps(told, indent=1))
