"""One scene, one question: the embedded LLaVA with its whole cache and with FNA's, the landmarks drawn. `make demo-vlm` runs this.

python scripts/demo_vlm.py                               # outputs/demo_vlm/demo.png and demo.html
python scripts/demo_vlm.py --scene 12 --question "where is the star?" --budget 0.125
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("demo_vlm")

import argparse
import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fna.data.scene_drawing import draw
from fna.data.scene_questions import ask
from fna.data.scenes import make_scene
from fna.kv.landmark import LandmarkCache
from fna.models.llava import Talk, VisionLanguageModel
from fna.surgery.cache import kept, read_prompt

SIDE, PATCH = 144, 8
SHOWN = 512  # pixels of the scene on paper
LONGEST = 6  # tokens of an answer


@dataclass(frozen=True)
class Told:
    """An answer, the bytes of the cache behind it, and which image tokens each layer kept, 0 for the first."""

    answer: str
    bytes: int
    tokens: list[list[int]]


@torch.no_grad()
def tell(talk: Talk, picture: Image.Image, question: str, policy: Any) -> Told:
    """A greedy answer under a policy; None: the model's own cache."""
    inputs = talk.inputs([[picture]], [[(question, None)]])
    prompt = read_prompt(talk.net, **inputs)
    first = int(prompt.image[0].to(torch.uint8).argmax())
    with kept(talk.net, policy, prompt=prompt) as cache:
        ids = talk.net.generate(**inputs, past_key_values=cache, max_new_tokens=LONGEST, do_sample=False)
    answer = talk.text(ids[:, inputs["input_ids"].shape[1] :])[0]
    if policy is None:
        held: Any = cache.layers
        return Told(answer, sum(layer.keys.nbytes + layer.values.nbytes for layer in held), [])
    layers: Any = cache.kept  # type: ignore[attr-defined]
    places = [layer.entries.positions[0, 0] - first for layer in layers]
    grid = (SIDE // PATCH) ** 2
    size = sum(part.view.nbytes for layer in layers for part in layer.parts.values())
    return Told(answer, size, [[int(i) for i in one if 0 <= i < grid] for one in places])


def paint(path: Path, scene: Image.Image, tokens: list[int], titles: tuple[str, str], heading: str) -> None:
    """Two panels: the scene, and the scene dark but for the patches in ``tokens``."""
    from matplotlib.figure import Figure

    cells = SIDE // PATCH
    veil = np.full((cells, cells), 0.72)
    veil.reshape(-1)[tokens] = 0.0
    figure = Figure(figsize=(9, 5.1), layout="constrained")
    figure.suptitle(heading, fontsize=13)
    for place, title in enumerate(titles):
        axis = figure.add_subplot(1, 2, place + 1)
        axis.imshow(scene, extent=(0, cells, cells, 0))
        if place:
            dark = np.zeros((cells, cells, 4))
            dark[..., 3] = veil
            axis.imshow(dark, extent=(0, cells, cells, 0), interpolation="nearest")
            for token in tokens:
                row, column = divmod(token, cells)
                axis.add_patch(_outline(column, row))
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def _outline(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column, row), 1, 1, fill=False, edgecolor="white", linewidth=0.8)


def page(path: Path, picture: Path, heading: str, rows: Sequence[tuple[str, ...]]) -> None:
    """The picture and the table as one file that needs no other."""
    inside = base64.b64encode(picture.read_bytes()).decode()
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    path.write_text(
        '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(heading)}</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
        "td{padding:.2rem 1rem .2rem 0}tr:first-child{font-weight:600}</style>"
        f'<h1>{html.escape(heading)}</h1><img alt="the scene, and its landmarks" src="data:image/png;base64,{inside}">'
        f"<table>{cells}</table>",
        encoding="utf-8",
    )


def main() -> None:
    asks = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asks.add_argument("--scene", type=int, default=7, help="its seed")
    asks.add_argument("--question", help="by default one whose answer is known")
    asks.add_argument("--budget", type=float, default=0.25, help="landmarks, a share of the image tokens")
    asks.add_argument("--layer", type=int, default=2, help="whose landmarks are drawn")
    asks.add_argument("--checkpoint", default="zoo:llava_shapes")
    asks.add_argument("--out", type=Path, default=Path("outputs/demo_vlm"))
    args = asks.parse_args()
    source = VisionLanguageModel(args.checkpoint, prompt="short", domain="generated")
    talk: Talk = source.build(image_size=None, device="cpu", dtype="float32", seed=0).answer
    scene = make_scene(args.scene)
    known = next(question for question in ask([scene])[0] if question.kind == "place")
    question = args.question or known.text
    truth = known.answer if question == known.text else "not known"
    picture = Image.fromarray(draw(scene, SIDE)[0])
    full, ours = (tell(talk, picture, question, policy) for policy in (None, LandmarkCache(budget=args.budget)))
    args.out.mkdir(parents=True, exist_ok=True)
    count, grid = len(ours.tokens[args.layer]), (SIDE // PATCH) ** 2
    titles = (f"whole cache: {full.answer}", f"FNA, {count} of {grid} image tokens: {ours.answer}")
    large = Image.fromarray(draw(scene, SHOWN)[0])
    paint(args.out / "demo.png", large, ours.tokens[args.layer], titles, question)
    rows = [
        ("", "answer", "image tokens in the cache", "bytes of the cache"),
        ("whole cache", full.answer, str(grid), f"{full.bytes:,}"),
        ("FNA", ours.answer, str(count), f"{ours.bytes:,}"),
        ("truth", truth, "", ""),
    ]
    page(args.out / "demo.html", args.out / "demo.png", question, rows)
    for row in rows:
        print("  ".join(f"{cell:26}" for cell in row).rstrip())
    print(f"landmarks of layer {args.layer} drawn in {args.out / 'demo.png'}; the page: {args.out / 'demo.html'}")
