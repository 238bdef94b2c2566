"""How well llava_shapes answers questions about scenes that it was not trained on, and how well without seeing them.

python scripts/measure_llava_shapes.py                   # 500 scenes of `test`, six questions each
python scripts/measure_llava_shapes.py --scenes 50 --split val
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("measure_llava_shapes")

import argparse
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from fna.data.scene_drawing import draw
from fna.data.scene_files import scenes_of
from fna.data.scene_questions import CHANCE, KINDS, Question, ask
from fna.models.llava import Talk, VisionLanguageModel

SIZE = 144
BATCH = 24
LONGEST = 6  # tokens of an answer


@torch.no_grad()
def answers(talk: Talk, pictures: Sequence[Image.Image], questions: Sequence[Question]) -> list[str]:
    """Greedy answers."""
    told: list[str] = []
    for start in range(0, len(questions), BATCH):
        part = slice(start, start + BATCH)
        talks = [[(question.text, None)] for question in questions[part]]
        inputs = talk.inputs([[picture] for picture in pictures[part]], talks)
        ids = talk.net.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        told += talk.text(ids[:, inputs["input_ids"].shape[1] :])
    return told


def accuracy(told: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """Of each kind the share of right answers in percent, and "macro", the mean over kinds."""
    right: dict[str, list[bool]] = defaultdict(list)
    for answer, question in zip(told, questions, strict=True):
        right[question.kind].append(answer == question.answer)
    shares = {kind: 100 * float(np.mean(right[kind])) for kind in KINDS}
    return {**shares, "macro": float(np.mean(list(shares.values())))}


def main() -> None:
    asks = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asks.add_argument("--scenes", type=int, default=500)
    asks.add_argument("--split", default="test")
    asks.add_argument("--checkpoint", default="zoo:llava_shapes")
    args = asks.parse_args()
    source = VisionLanguageModel(args.checkpoint, prompt="short", domain="generated")
    talk: Talk = source.build(image_size=None, device="cpu", dtype="float32", seed=0).answer
    scenes = scenes_of(args.split, args.scenes)
    asked = [(scene, question) for scene, picked in zip(scenes, ask(scenes), strict=True) for question in picked]
    drawn = {scene.seed: Image.fromarray(draw(scene, SIZE)[0]) for scene in scenes}
    blank = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
    questions = [question for _, question in asked]
    seen = accuracy(answers(talk, [drawn[scene.seed] for scene, _ in asked], questions), questions)
    unseen = accuracy(answers(talk, [blank] * len(asked), questions), questions)
    chance = {**{kind: 100 * CHANCE[kind] for kind in KINDS}, "macro": 100 * float(np.mean(list(CHANCE.values())))}
    print(f"{len(questions)} questions about {len(scenes)} scenes of {args.split}\n")
    print("| kind | questions | right | blank image | chance |")
    print("|---|---|---|---|---|")
    for kind, share in seen.items():
        count = sum(kind in (question.kind, "macro") for question in questions)
        print(f"| {kind} | {count} | {share:.1f} % | {unseen[kind]:.1f} % | {chance[kind]:.1f} % |")
